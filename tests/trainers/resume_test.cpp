// Where a run begins: at its newest whole checkpoint, at step 0, or at another run's; and that two
// runs never mix in one directory.
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/compare.h"
#include "checkpoint/find.h"
#include "checkpoint/manifest.h"
#include "dist/simulated.h"
#include "tests/support/scratch.h"
#include "trainers/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>

namespace trestle::trainers {
namespace {

namespace fs = std::filesystem;
using testing::ScratchFolder;
using Kind = Resume::Kind;

constexpr std::string_view kRecipe = R"(
[run]
task = "line_fit"
[train]
steps = 12
global_batch = 12
micro_batch = 3
[optim]
learning_rate = 0.1
[checkpoint]
every = 4
[log]
level = "error"
)";

/// Trains on two ranks; returns what was said, or the text of the error that every rank threw.
std::string train(const fs::path& folder, const Resume& resume = {},
                  const std::vector<std::string>& sets = {}, int ranks = 2,
                  ExitCode expected = ExitCode::done) {
  const configs::Recipe recipe = configs::Recipe::from_text(kRecipe, "test", sets);
  set_log_level(LogLevel::info);
  ::testing::internal::CaptureStderr();
  std::atomic<int> thrown = 0;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    try {
      Trainer(recipe, world, RunDirectory(folder), {.resume = resume}).run();
    } catch (const Error& error) {
      ++thrown;
      EXPECT_EQ(error.code(), expected) << error.what();
      if (world.is_root()) log_error("{}", error.what());
    }
  });
  EXPECT_EQ(thrown, expected == ExitCode::done ? 0 : ranks);
  std::string said = ::testing::internal::GetCapturedStderr();
  set_log_level(LogLevel::error);
  return said;
}

void expect_said(const std::string& said, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(said.find(part), std::string::npos) << part << "\nis not in\n" << said;
}

fs::path step(const fs::path& run, int number) {
  return run / "checkpoints" / fmt::format("step-{:08}", number);
}

void damage(const fs::path& checkpoint) {
  const checkpoint::Manifest manifest = checkpoint::read_manifest(checkpoint);
  const auto& piece = manifest.tensors.begin()->second.pieces.front();
  std::fstream file(checkpoint / manifest.files[piece.file].name,
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(piece.offset));
  const char byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(piece.offset));
  file.put(byte);
}

void expect_same_state(const fs::path& a, const fs::path& b) {
  const checkpoint::Manifest in_a = checkpoint::read_manifest(a),
                             in_b = checkpoint::read_manifest(b);
  const checkpoint::Comparison comparison = checkpoint::compare({a, in_a}, {b, in_b});
  for (const auto& difference : comparison.tensors) ADD_FAILURE() << difference.name;
  for (const auto& difference : comparison.values) EXPECT_EQ(difference.name, "trainer/wall_s");
}

class ResumedRun : public ::testing::Test {
 protected:
  ResumedRun() { train(whole_); }

  ScratchFolder scratch_;
  const fs::path whole_ = scratch_.path() / "whole", run_ = scratch_.path() / "run";
};

TEST_F(ResumedRun, GoesBackToTheOneBeforeADamagedOneAndComesToTheSame) {
  train(run_);
  fs::remove_all(step(run_, 12));
  damage(step(run_, 8));
  const std::string said = train(run_);
  expect_said(said, {"CHECKPOINT DAMAGED", "step-00000008/shard-0000", "is damaged in bytes [0, ",
                     "tensor ", "the damaged one is step-00000008.damaged now", "resumed from",
                     "step-00000004 at step 4"});
  EXPECT_TRUE(fs::exists(run_ / "checkpoints" / "step-00000008.damaged"));
  EXPECT_TRUE(fs::exists(step(run_, 8)));  // written again
  expect_same_state(step(run_, 12), step(whole_, 12));
}

TEST_F(ResumedRun, IsNotBegunAnewWhenAllIsDamagedUnlessAsked) {
  train(run_);
  for (const int number : {4, 8, 12}) damage(step(run_, number));
  for (int start = 0; start < 2; ++start) {
    const std::string said = train(run_, {}, {}, 2, ExitCode::checkpoint);
    expect_said(said, {"No checkpoint in", "3 damaged", "begin anew with --resume never"});
    EXPECT_TRUE(checkpoint::candidates(run_ / "checkpoints").empty());
  }
  train(run_, {.kind = Kind::never}, {"train.steps=4"});
  train(run_);
  expect_same_state(step(run_, 12), step(whole_, 12));
}

TEST_F(ResumedRun, NeverIsRefusedWhereThereAreCheckpoints) {
  train(run_, {.kind = Kind::never});
  expect_same_state(step(run_, 12), step(whole_, 12));
  const std::string said =
      train(run_, {.kind = Kind::never}, {"train.steps=16"}, 2, ExitCode::usage);
  expect_said(said, {"holds checkpoints up to step 12", "--resume never", "another --run-dir",
                     "--resume auto"});
  EXPECT_EQ(checkpoint::candidates(run_ / "checkpoints").size(), 3u);
}

TEST_F(ResumedRun, BeginsAtAnothersCheckpointAndThenGoesOnByItself) {
  const Resume at_eight{.kind = Kind::path, .path = step(whole_, 8)};
  expect_said(train(run_, at_eight, {"train.steps=10"}),
              {"resumed from", "step-00000008 at step 8"});
  EXPECT_FALSE(fs::exists(step(run_, 8)));
  EXPECT_TRUE(fs::exists(step(run_, 10)));
  // The same command, as a queue gives it again, goes on.
  expect_said(train(run_, at_eight), {"began at", "step-00000010 at step 10"});
  expect_same_state(step(run_, 12), step(whole_, 12));
  // So does the usual one; another beginning would mix two runs.
  expect_said(train(run_), {"is complete"});
  const std::string said =
      train(run_, {.kind = Kind::path, .path = step(whole_, 4)}, {}, 2, ExitCode::usage);
  expect_said(said, {"holds checkpoints up to step 12", "is not the newest of them"});
}

TEST_F(ResumedRun, RemembersWhereItBeganUntilItHasACheckpointOfItsOwn) {
  const Resume of_run{.kind = Kind::path, .path = whole_};
  fs::remove_all(step(whole_, 12));
  expect_said(train(run_, of_run, {"train.steps=8"}), {"step-00000008 at step 8"});
  fs::remove_all(run_ / "checkpoints");  // as if killed before the first save
  expect_said(train(run_), {"step-00000008 at step 8"});
  EXPECT_TRUE(fs::exists(step(run_, 12)));
}

TEST_F(ResumedRun, FallsBackInAnothersRunWithoutRenamingThere) {
  damage(step(whole_, 12));
  expect_said(train(run_, {.kind = Kind::path, .path = whole_}),
              {"CHECKPOINT DAMAGED", "step-00000008 at step 8"});
  EXPECT_TRUE(fs::exists(step(whole_, 12)));
  // What was named is loaded or nothing is.
  const fs::path other = scratch_.path() / "other";
  const std::string said =
      train(other, {.kind = Kind::path, .path = step(whole_, 12)}, {}, 2, ExitCode::checkpoint);
  expect_said(said, {"is damaged in bytes"});
  EXPECT_TRUE(fs::exists(step(whole_, 12)));
}

TEST_F(ResumedRun, MayNameItsOwnNewestOrItself) {
  train(run_, {}, {"train.steps=8"});
  expect_said(train(run_, {.kind = Kind::path, .path = step(run_, 8)}, {"train.steps=10"}),
              {"step-00000008 at step 8"});
  expect_said(train(run_, {.kind = Kind::path, .path = run_}), {"step-00000010 at step 10"});
  EXPECT_FALSE(fs::exists(run_ / "begun_from.json"));
  expect_same_state(step(run_, 12), step(whole_, 12));
  expect_said(train(run_, {.kind = Kind::path, .path = step(run_, 8)}, {}, 2, ExitCode::usage),
              {"is not the newest of them"});
  expect_said(train(run_, {.kind = Kind::path, .path = "nowhere"}, {}, 2, ExitCode::usage), {});
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

TEST_F(ResumedRun, KeepsTheCheckpointsThatItIsToldToAndFinishesOldDeletes) {
  const std::vector<std::string> sets = {"checkpoint.every=1", "checkpoint.keep_last=2",
                                         "checkpoint.keep_every=5"};
  const fs::path folder = run_ / "checkpoints";
  train(run_, {}, {sets[0], sets[1], sets[2], "train.steps=7"});
  EXPECT_EQ(names_in(folder),
            (std::vector<std::string>{"step-00000005", "step-00000006", "step-00000007"}));
  // A run that was killed while it deleted.
  fs::create_directory(folder / ".deleting-step-00000004-0a1b2c3d");
  std::ofstream(folder / ".deleting-step-00000004-0a1b2c3d" / "shard-00000-of-00002.h5") << "half";
  train(run_, {}, {sets[0], sets[1], sets[2]});
  EXPECT_EQ(names_in(folder), (std::vector<std::string>{"step-00000005", "step-00000010",
                                                        "step-00000011", "step-00000012"}));
  expect_same_state(step(run_, 12), step(whole_, 12));
}

TEST_F(ResumedRun, OfAnotherRecipeIsRefused) {
  const std::string said =
      train(run_, {.kind = Kind::path, .path = whole_}, {"run.seed=5"}, 2, ExitCode::checkpoint);
  expect_said(said, {"run.seed: 0 there, 5 now"});
  expect_said(train(run_, {.kind = Kind::path, .path = scratch_.path() / "nowhere"}, {}, 2,
                    ExitCode::checkpoint),
              {"holds no checkpoint"});
}

}  // namespace
}  // namespace trestle::trainers
