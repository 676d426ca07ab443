#include "base/run_program.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <string>

namespace trestle {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

ProgramAnswer shell(const std::string& script, const RunProgramOptions& options = {}) {
  return run_program({"sh", "-c", script}, options);
}

TEST(RunProgram, GivesWhatTheProgramPrints) {
  const auto answer = run_program({"printf", "%s|%s", "a b", "$HOME"});
  EXPECT_TRUE(answer.ok()) << answer.problem;
  EXPECT_EQ(answer.output, "a b|$HOME");
}

TEST(RunProgram, WhatItSaysToPeopleIsNoOutput) {
  EXPECT_EQ(shell("echo warning >&2; echo 5").output, "5\n");
}

TEST(RunProgram, AFailureHasItsLastWords) {
  const auto answer = shell("echo 1; echo first >&2; echo Invalid job id >&2; exit 3");
  EXPECT_FALSE(answer.ok());
  EXPECT_EQ(answer.problem, "sh exited with 3: Invalid job id");
}

TEST(RunProgram, AProgramThatIsNotThereIsSaid) {
  const auto answer = run_program({"no-such-program"});
  EXPECT_EQ(answer.problem, "no-such-program cannot be started (No such file or directory)");
}

TEST(RunProgram, AVariableIsAddedAndReplaced) {
  ASSERT_EQ(::setenv("TRESTLE_TEST_VARIABLE", "ours", 1), 0);
  EXPECT_EQ(shell("echo $TRESTLE_TEST_VARIABLE").output, "ours\n");
  EXPECT_EQ(
      shell("env | grep ^TRESTLE_TEST_VARIABLE", {.environment = {"TRESTLE_TEST_VARIABLE=given"}})
          .output,
      "TRESTLE_TEST_VARIABLE=given\n");
  ::unsetenv("TRESTLE_TEST_VARIABLE");
}

TEST(RunProgram, AProgramThatHangsIsKilledWithItsChildren) {
  const auto begin = Clock::now();
  const auto answer = shell("sleep 600 & sleep 600", {.limit = milliseconds(200)});
  EXPECT_LT(Clock::now() - begin, seconds(60));
  EXPECT_EQ(answer.problem, "sh has not answered within 0.2 s");
}

TEST(RunProgram, WhoGivesUpDoesNotWait) {
  const auto begin = Clock::now();
  int asked = 0;
  const auto answer =
      shell("sleep 600", {.limit = seconds(500), .give_up = [&] { return ++asked > 2; }});
  EXPECT_LT(Clock::now() - begin, seconds(60));
  EXPECT_FALSE(answer.ok());
}

TEST(RunProgram, AChildThatKeepsThePipeOpenKeepsNobodyWaiting) {
  const auto begin = Clock::now();
  const auto answer = shell("sleep 30 & echo done");
  EXPECT_LT(Clock::now() - begin, seconds(25));
  EXPECT_EQ(answer.output, "done\n");
}

TEST(RunProgram, MuchOutputIsReadToItsEnd) {
  const auto answer = shell("head -c 300000 /dev/zero | tr '\\0' x");
  EXPECT_EQ(answer.output.size(), 300000u);
}

TEST(RunProgram, TheProgramHasNoSignalBlocked) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const auto answer = shell("kill -TERM $$; echo alive");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(answer.problem, "sh was ended by signal 15");
}

}  // namespace
}  // namespace trestle
