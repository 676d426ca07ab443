// Which checkpoints stay, and that a delete may be interrupted anywhere.
#include "checkpoint/retention.h"

#include "base/files.h"
#include "checkpoint/epochs.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

using Steps = std::vector<std::int64_t>;

class Retention : public ::testing::Test {
 protected:
  fs::path path(std::int64_t step) const { return folder() / fmt::format("step-{:08}", step); }
  const fs::path& folder() const { return scratch_.path(); }

  /// A whole checkpoint, small.
  void seal(std::int64_t step, std::int64_t epoch = 0) {
    at::Tensor values = at::arange(3);
    save(dist::Communicator::self(), collect([&](Scope& scope) { scope.tensor("values", values); }),
         {.folder = folder(), .step = step, .recipe_toml = {}, .recipe_hash = {}, .epoch = epoch});
  }

  Steps steps() const {
    Steps found;
    for (const Candidate& candidate : candidates(folder())) found.push_back(candidate.step);
    std::ranges::sort(found);
    return found;
  }

  bool is_left_over() const {
    return std::ranges::any_of(fs::directory_iterator(folder()), [](const auto& entry) {
      return entry.path().filename().string().starts_with(".deleting-");
    });
  }

 private:
  ScratchFolder scratch_;
};

TEST_F(Retention, KeepsTheLastAndEverySoMany) {
  const RetentionPolicy policy{.keep_last = 3, .keep_every = 100};
  for (std::int64_t step = 20; step <= 400; step += 20) {
    seal(step);
    retain(folder(), policy, path(step));
    EXPECT_FALSE(is_left_over());
  }
  EXPECT_EQ(steps(), (Steps{100, 200, 300, 360, 380, 400}));
}

TEST_F(Retention, OfZeroKeepsAll) {
  for (std::int64_t step = 1; step <= 5; ++step) {
    seal(step);
    EXPECT_TRUE(retain(folder(), {.keep_last = 0, .keep_every = 2}, path(step)).empty());
  }
  EXPECT_EQ(steps(), (Steps{1, 2, 3, 4, 5}));
}

TEST_F(Retention, OfOneKeepsTheNewest) {
  for (const std::int64_t step : {7, 8, 9}) {
    seal(step);
    retain(folder(), {.keep_last = 1}, path(step));
  }
  EXPECT_EQ(steps(), (Steps{9}));
  EXPECT_TRUE(retain(folder(), {.keep_last = 1}, path(9)).empty());
}

TEST_F(Retention, NamesWhatItDeletedOldestFirst) {
  for (const std::int64_t step : {1, 2, 3, 4}) seal(step);
  EXPECT_EQ(retain(folder(), {.keep_last = 2}, path(4)), (std::vector{path(1), path(2)}));
}

TEST_F(Retention, DeletesNothingThatIsNewerThanTheSealedOne) {
  for (const std::int64_t step : {1, 2, 3, 8, 9}) seal(step);
  retain(folder(), {.keep_last = 1}, path(3));
  EXPECT_EQ(steps(), (Steps{3, 8, 9}));
}

TEST_F(Retention, DeletesNothingWhileTheSealedOneIsNotComplete) {
  for (const std::int64_t step : {1, 2, 3}) seal(step);
  fs::resize_file(path(3) / "shard-00000-of-00001.h5", 10);
  EXPECT_TRUE(retain(folder(), {.keep_last = 1}, path(3)).empty());
  fs::remove_all(path(3));
  EXPECT_TRUE(retain(folder(), {.keep_last = 1}, path(3)).empty());
  EXPECT_EQ(steps(), (Steps{1, 2}));
}

TEST_F(Retention, OnlyWholeOnesCountAsKept) {
  for (const std::int64_t step : {1, 2, 3, 4}) seal(step);
  fs::remove(path(3) / "manifest.json");
  retain(folder(), {.keep_last = 2}, path(4));
  EXPECT_EQ(steps(), (Steps{2, 3, 4}));  // 4 and 2 can be gone on from
}

TEST_F(Retention, SupersededOnesDoNotCountAsKept) {
  Epochs epochs = Epochs::read(folder());
  epochs.record({.epoch = 1, .holder = "one", .from_step = -1});
  epochs.record({.epoch = 2, .holder = "two", .from_step = 1});
  seal(1, 1);
  seal(2, 1);  // written by epoch 1 after epoch 2 had gone on from step 1
  seal(3, 2);
  seal(4, 2);
  retain(folder(), {.keep_last = 3}, path(4));
  EXPECT_EQ(steps(), (Steps{1, 2, 3, 4}));
  retain(folder(), {.keep_last = 2}, path(4));
  EXPECT_EQ(steps(), (Steps{3, 4}));
}

TEST_F(Retention, ARunThatWasTakenOverDeletesNothing) {
  Epochs epochs = Epochs::read(folder());
  epochs.record({.epoch = 1, .holder = "one", .from_step = -1});
  epochs.record({.epoch = 2, .holder = "two", .from_step = 5});
  seal(5, 1);
  seal(6, 2);
  seal(9, 1);  // given its name after the takeover
  EXPECT_TRUE(retain(folder(), {.keep_last = 1}, path(9)).empty());
  EXPECT_EQ(steps(), (Steps{5, 6, 9}));
  EXPECT_EQ(newest(folder()), path(6));
  retain(folder(), {.keep_last = 1}, path(6));
  EXPECT_EQ(steps(), (Steps{6, 9}));
}

TEST_F(Retention, LeavesAloneWhatIsNotACheckpointOfTheRun) {
  for (const std::int64_t step : {1, 2, 3}) seal(step);
  fs::rename(path(1), folder() / "step-00000001.damaged");
  fs::create_directory(folder() / ".tmp-step-00000004-e1-0a0b0c0d");
  fs::create_directory(folder() / "mine");
  retain(folder(), {.keep_last = 1}, path(3));
  finish_deletes(folder());
  for (const char* name :
       {"step-00000001.damaged", ".tmp-step-00000004-e1-0a0b0c0d", "mine", "step-00000003"})
    EXPECT_TRUE(fs::exists(folder() / name)) << name;
  EXPECT_FALSE(fs::exists(path(2)));
}

TEST_F(Retention, AnInterruptedDeleteIsHarmlessAndFinishedAtTheNextStart) {
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    for (const std::int64_t step : {1, 2, 3}) seal(step);
    // A kill after the rename, with any of the files gone.
    const fs::path hidden = folder() / ".deleting-step-00000001-0a1b2c3d";
    fs::rename(path(1), hidden);
    for (const auto& entry : fs::directory_iterator(hidden))
      if (random() % 2 == 0) fs::remove(entry.path());
    EXPECT_EQ(steps(), (Steps{2, 3}));
    EXPECT_EQ(newest(folder()), path(3));
    retain(folder(), {.keep_last = 1}, path(3));  // does not trip over it
    EXPECT_EQ(steps(), (Steps{3}));
    finish_deletes(folder());
    EXPECT_FALSE(is_left_over());
    EXPECT_EQ(newest(folder()), path(3));
  }
  finish_deletes(folder() / "missing");
}

}  // namespace
}  // namespace trestle::checkpoint
