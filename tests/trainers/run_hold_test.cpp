// One run at a time in a directory, on simulated ranks: a second one is refused, one that has lost
// its directory ends and saves nothing, and the directory tells its starts.
#include "trainers/run_hold.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/epochs.h"
#include "checkpoint/load.h"
#include "dist/simulated.h"
#include "tests/support/lone_assembly.h"
#include "tests/support/scratch.h"
#include "trainers/trainer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <csignal>
#include <fstream>
#include <thread>

namespace trestle::trainers {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Scratch = testing::ScratchFolder;

constexpr std::string_view kRecipe = R"(
[run]
task = "line_fit"
lease_timeout_s = 1
[train]
steps = 10
global_batch = 12
micro_batch = 1
[log]
level = "error"
)";

configs::Recipe recipe(const std::vector<std::string>& sets = {}) {
  set_log_level(LogLevel::error);
  return configs::Recipe::from_text(kRecipe, "test", sets);
}

void train(const fs::path& folder, const std::vector<std::string>& sets = {}) {
  dist::simulate(2, [&](const dist::Communicator& world) {
    Trainer(recipe(sets), world, RunDirectory(folder)).run();
  });
}

/// The error that two ranks agree on, which both threw.
std::string agreed_error(ExitCode code, const fs::path& folder,
                         const std::vector<std::string>& sets) {
  std::atomic<int> thrown{0};
  std::string message;
  dist::simulate(2, [&](const dist::Communicator& world) {
    try {
      Trainer(recipe(sets), world, RunDirectory(folder)).run();
    } catch (const Error& error) {
      if (error.code() == code) ++thrown;
      if (world.is_root()) message = error.what();
    }
  });
  EXPECT_EQ(thrown, 2) << message;
  return message;
}

std::vector<json> lines_of(const fs::path& file) {
  std::vector<json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

std::vector<std::string> checkpoints_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "checkpoints"))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

/// Every file with its bytes, but for the lease, which its holder renews.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().lexically_relative(folder).string();
    if (entry.is_regular_file() && name.find("lease") == std::string::npos)
      files[name] = read_text_file(entry.path(), 1 << 24, ExitCode::data);
  }
  return files;
}

/// Another run takes the folder as soon as this one has made a step.
std::thread successor_after_a_step(const fs::path& folder) {
  return std::thread([folder] {
    while (lines_of(folder / "metrics.jsonl").empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    checkpoint::LeaseRecord record{.epoch = 2, .holder = {}, .taken = "just now", .beaten = ""};
    record.holder.host = "elsewhere";
    std::ofstream(folder / ".lease-draft-of-a-test") << to_text(record);
    fs::rename(folder / ".lease-draft-of-a-test", folder / ".lease-00000002");
  });
}

TEST(RunHold, ASecondRunIsRefusedOnEveryRankAndChangesNothing) {
  const Scratch scratch;
  train(scratch.path(), {"train.steps=5"});
  const checkpoint::Lease first(scratch.path(), checkpoint::this_process(2), {.timeout_s = 1});
  const auto before = contents(scratch.path());
  const std::string message = agreed_error(ExitCode::environment, scratch.path(), {});
  EXPECT_NE(message.find("is in use by a run that is alive"), std::string::npos) << message;
  EXPECT_EQ(contents(scratch.path()), before);
}

TEST(RunHold, AStopEndsTheWaitForAnotherRunsHeartbeat) {
  const Scratch scratch;
  checkpoint::LeaseRecord record{.epoch = 1, .holder = {}, .taken = "then", .beaten = "then"};
  record.holder.host = "elsewhere";
  std::ofstream(scratch.path() / checkpoint::Lease::kName) << to_text(record);
  StopSource source;
  source.request(SIGTERM);
  std::atomic<int> stopped{0};
  dist::simulate(2, [&](const dist::Communicator& world) {
    try {
      Trainer(recipe({"run.lease_timeout_s=600"}), world, RunDirectory(scratch.path()),
              {.stop = source.token()})
          .run();
    } catch (const Error& error) {
      if (error.code() == ExitCode::preempted) ++stopped;
    }
  });
  EXPECT_EQ(stopped, 2);
}

TEST(RunHold, ARunThatLostItsDirectoryEndsAndSavesNothing) {
  const Scratch scratch;
  std::thread successor = successor_after_a_step(scratch.path());
  const std::string message =
      agreed_error(ExitCode::environment, scratch.path(), {"train.steps=1000000"});
  successor.join();
  EXPECT_NE(message.find("was taken over by another run (host elsewhere"), std::string::npos)
      << message;
  EXPECT_TRUE(checkpoints_in(scratch.path()).empty());
  EXPECT_EQ(lines_of(RunDirectory(scratch.path()).restarts()).size(), 1u) << "its end is no news";
}

TEST(RunHold, ACheckpointOfARunThatLostItsDirectoryGetsNoName) {
  const Scratch scratch;
  std::size_t before = 0;
  std::thread successor([&] {
    successor_after_a_step(scratch.path()).join();
    before = checkpoints_in(scratch.path()).size();
  });
  // The heartbeat's thread sleeps for 5 s: what notices is the question before the name.
  const std::string message = agreed_error(ExitCode::environment, scratch.path(),
                                           {"train.steps=1000000", "checkpoint.every=1",
                                            "checkpoint.keep_last=0", "run.lease_timeout_s=3600"});
  successor.join();
  EXPECT_NE(message.find("was taken over by another run"), std::string::npos) << message;
  // One may have been between the question and its name at the takeover: what epochs.json is for.
  const auto after = checkpoints_in(scratch.path());
  EXPECT_LE(after.size(), before + 1);
  for (const auto& name : after) EXPECT_TRUE(name.starts_with("step-")) << name;
}

TEST(RunHold, TheDirectoryTellsItsStarts) {
  const Scratch scratch;
  const RunDirectory directory(scratch.path());
  dist::simulate(2, [&](const dist::Communicator& world) {
    StopSource source;
    source.request(SIGTERM);
    Trainer(recipe(), world, directory, {.stop = source.token()}).run();
  });
  train(scratch.path());

  const auto lines = lines_of(directory.restarts());
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["event"], "start");
  EXPECT_EQ(lines[0]["epoch"], 1);
  EXPECT_EQ(lines[0]["from_step"], -1);
  EXPECT_EQ(lines[0]["world"], 2);
  EXPECT_EQ(lines[0]["before"], "");
  EXPECT_EQ(lines[1]["event"], "end");
  EXPECT_EQ(lines[1]["code"], 75);
  EXPECT_EQ(lines[1]["step"], 1);
  EXPECT_EQ(lines[2]["epoch"], 2);
  EXPECT_EQ(lines[2]["from_step"], 1);
  EXPECT_EQ(lines[2]["before"], "exit code 75 at step 1");
  EXPECT_EQ(lines[3]["code"], 0);
  EXPECT_EQ(lines[3]["step"], 10);

  const auto epochs = checkpoint::Epochs::read(directory.checkpoints());
  ASSERT_EQ(epochs.starts().size(), 2u);
  EXPECT_EQ(epochs.starts()[1].from_step, 1);
  EXPECT_EQ(checkpoint::read_manifest(directory.checkpoints() / "step-00000001").epoch, 1);
  EXPECT_EQ(checkpoint::read_manifest(directory.checkpoints() / "step-00000010").epoch, 2);

  const auto metrics = lines_of(directory.metrics());
  ASSERT_EQ(metrics.size(), 10u);
  for (std::int64_t step = 0; step < 10; ++step) {
    const json& line = metrics[static_cast<std::size_t>(step)];
    EXPECT_EQ(line["step"], step);
    EXPECT_EQ(line["restarts"], step == 0 ? 0 : 1);
  }
}

TEST(RunHold, AStartWithoutALastWordWasKilled) {
  const Scratch scratch;
  const RunDirectory directory(scratch.path());
  directory.create();
  std::ofstream(directory.restarts()) << "{\"event\":\"start\",\"epoch\":1}\n{\"event\":\"en";
  train(scratch.path());
  const auto lines = lines_of(directory.restarts());
  ASSERT_EQ(lines.size(), 3u) << "the unfinished line is gone";
  EXPECT_EQ(lines[1]["before"], "no last word: it was killed, or its host was lost");
}

TEST(RunHold, StepsSkippedInARowAreCountedOverARestart) {
  testing::LoneAssembly lone(recipe());
  lone.assembly.counters.skips_in_row = 3;
  TrainingState state = lone.assembly.state();
  auto values = checkpoint::collect(state.visitor()).values;
  lone.assembly.counters.skips_in_row = 0;
  const checkpoint::Visit again(state.visitor(), &values);
  EXPECT_TRUE(again.differences.empty());
  EXPECT_EQ(lone.assembly.counters.skips_in_row, 3);
  values.erase("trainer/skips_in_row");  // as older checkpoints are
  lone.assembly.counters.skips_in_row = 0;
  const checkpoint::Visit old(state.visitor(), &values);
  EXPECT_TRUE(old.differences.empty());
  EXPECT_EQ(lone.assembly.counters.skips_in_row, 0);
}

}  // namespace
}  // namespace trestle::trainers
