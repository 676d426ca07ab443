#include "launch/slurm_job.h"

#include "base/error.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/stat.h>

namespace trestle::launch {
namespace {

using trainers::JobEnd;

dist::Environment environment_of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(SlurmJob, HasTheNameThatSlurmsCommandsTake) {
  EXPECT_EQ(slurm_job(environment_of({})), std::nullopt);
  EXPECT_EQ(slurm_job(environment_of({{"SLURM_JOB_ID", "123"}})), "123");
  // The last task of an array has the whole array's number.
  EXPECT_EQ(
      slurm_job(environment_of(
          {{"SLURM_JOB_ID", "120"}, {"SLURM_ARRAY_JOB_ID", "120"}, {"SLURM_ARRAY_TASK_ID", "3"}})),
      "120_3");
}

TEST(SlurmJob, ParsesTheEnd) {
  EXPECT_EQ(parse_end("1796061692\n"), JobEnd::TimePoint(std::chrono::seconds(1796061692)));
  EXPECT_EQ(parse_end("  1796061692 "), JobEnd::TimePoint(std::chrono::seconds(1796061692)));
  for (const auto* none : {"NONE\n", "N/A", "Unknown"}) EXPECT_EQ(parse_end(none), std::nullopt);
}

TEST(SlurmJob, RefusesWhatIsNoTime) {
  for (const auto* text : {"", "\n", "soon", "2026-11-30T18:01:32", "17960616921796061692179606",
                           "-5", "0", "1796061692 1796061692", "1796061692\n1796061692"}) {
    EXPECT_THROW(parse_end(text), Error) << text;
  }
}

/// A squeue in PATH that answers with `script`.
class FakeSqueue {
 public:
  explicit FakeSqueue(const std::string& script) {
    const auto file = scratch_.path() / "squeue";
    std::ofstream(file) << "#!/bin/sh\n" << script << "\n";
    ::chmod(file.c_str(), 0755);
    before_ = std::getenv("PATH");
    ::setenv("PATH", (scratch_.path().string() + ":" + before_).c_str(), 1);
  }
  ~FakeSqueue() { ::setenv("PATH", before_.c_str(), 1); }
  FakeSqueue(const FakeSqueue&) = delete;
  FakeSqueue& operator=(const FakeSqueue&) = delete;

 private:
  testing::ScratchFolder scratch_;
  std::string before_;
};

const std::function<bool()> kPatient = [] { return false; };

TEST(SlurmJob, AsksSqueueForSecondsOfThisJobAlone) {
  const FakeSqueue squeue(
      R"(test "$*" = "--noheader --jobs 120_3 --format %e" || exit 5
         test "$SLURM_TIME_FORMAT" = %s || exit 6
         echo 1796061692)");
  EXPECT_EQ(ask_squeue("120_3", environment_of({}))(kPatient),
            JobEnd::TimePoint(std::chrono::seconds(1796061692)));
}

TEST(SlurmJob, SaysWhatSqueueSaid) {
  const FakeSqueue squeue("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1");
  try {
    ask_squeue("7", environment_of({}))(kPatient);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "squeue exited with 1: slurm_load_jobs error: Invalid job id specified");
  }
}

TEST(SlurmJob, WithoutSqueueTheEndAtTheStartCounts) {
  const FakeSqueue squeue("exit 1");
  const auto environment = environment_of({{"SLURM_JOB_END_TIME", "1796061692"}});
  EXPECT_EQ(ask_squeue("7", environment)(kPatient),
            JobEnd::TimePoint(std::chrono::seconds(1796061692)));
}

}  // namespace
}  // namespace trestle::launch
