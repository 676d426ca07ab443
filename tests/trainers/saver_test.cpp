// Saving beside training: nothing changes in place before the save was asked, checkpoints have the
// same bytes however they were written, and failures are dealt with as promised.
#include "trainers/saver.h"

#include "base/files.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "checkpoint/save_step.h"
#include "dist/simulated.h"
#include "tests/support/scratch.h"
#include "tests/trainers/trial.h"
#include "trainers/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

namespace trestle::trainers {
namespace {

namespace fs = std::filesystem;
using checkpoint::SaveFlags;
using checkpoint::Stage;
using testing::ScratchFolder;

/// Looks at the whole state whenever it is asked, for what has changed without a question.
class Witness : public checkpoint::SaveUnderWay {
 public:
  void begin_step(Engine& engine) {
    tree_ = checkpoint::collect([&](checkpoint::Scope& root) { engine.state(root); });
    before_.clear();
    for (const auto& entry : tree_.tensors) before_.push_back(entry.tensor.clone());
    asked_.clear();
    asked_for_all_ = false;
  }
  /// What changed since, and whether each of it was asked for, in the order of the stages.
  void end_step() {
    look("the end of the step");
    EXPECT_TRUE(std::ranges::is_sorted(asked_));
    for (std::size_t i = 0; i < before_.size(); ++i)
      changed += !at::equal(before_[i], tree_.tensors[i].tensor);
  }

  void before_change(Stage stage) override {
    EXPECT_GE(stage, 0);
    look(fmt::format("stage {}", stage));
    asked_.push_back(stage);
  }
  void before_any_change() override {
    look("all");
    asked_for_all_ = true;
  }
  SaveFlags flags() override { return {.written = 1}; }
  void learn(const SaveFlags& of_all) override { learned.push_back(of_all.written); }

  int changed = 0;
  std::vector<std::int64_t> learned;

 private:
  void look(const std::string& at) {
    if (asked_for_all_) return;
    for (std::size_t i = 0; i < before_.size(); ++i) {
      const auto& entry = tree_.tensors[i];
      if (std::ranges::count(asked_, entry.stage) > 0) continue;
      EXPECT_TRUE(at::equal(before_[i], entry.tensor))
          << entry.name << " of stage " << entry.stage << " has changed before " << at;
    }
  }

  checkpoint::StateTree tree_;
  std::vector<at::Tensor> before_;
  std::vector<Stage> asked_;
  bool asked_for_all_ = false;
};

TEST(SaveUnderWay, NothingChangesBeforeItIsAskedFor) {
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    for (const bool paranoid : {false, true}) {
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {  // masters are parameters, or are not
        dist::simulate(2, [&](const dist::Communicator& world) {
          Witness witness;
          testing::Trial trial;
          trial.shard = shard;
          trial.paranoid = paranoid;
          trial.model.dtypes = {dtype};
          bool begun = false;
          trial.around_steps = [&](Engine& engine) {
            if (std::exchange(begun, true)) witness.end_step();
            engine.save_with(&witness);
            witness.begin_step(engine);
          };
          testing::run_trial(trial, world);
          EXPECT_GT(witness.changed, 0);
          // Every step's message carries the flags of all ranks.
          EXPECT_EQ(witness.learned,
                    std::vector<std::int64_t>(static_cast<std::size_t>(trial.steps), 2));
        });
      }
    }
  }
}

TEST(SaveUnderWay, AnAverageIsNotShownBeforeMastersAreCopied) {
  dist::simulate(2, [&](const dist::Communicator& world) {
    Witness witness;
    testing::Trial trial;
    trial.paranoid = false;
    trial.around_steps = [&](Engine& engine) {
      engine.save_with(&witness);
      witness.begin_step(engine);
      { const Engine::Averaged averaged(engine, "ema"); }
      witness.end_step();
      engine.wait();  // the parameters are the trained ones again
      witness.begin_step(engine);
    };
    testing::run_trial(trial, world);
  });
}

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

configs::Recipe recipe(const std::vector<std::string>& sets) {
  set_log_level(LogLevel::error);
  return configs::Recipe::from_text(kRecipe, "test", sets);
}

std::map<std::string, std::string> shards_in(const fs::path& checkpoints) {
  std::map<std::string, std::string> shards;
  for (const auto& entry : fs::recursive_directory_iterator(checkpoints)) {
    if (entry.path().extension() == ".h5")
      shards[fs::relative(entry.path(), checkpoints).string()] =
          read_text_file(entry.path(), 1 << 28, ExitCode::checkpoint);
  }
  return shards;
}

TEST(Saver, TheBackgroundWritesTheSameBytes) {
  for (int ranks = 1; ranks <= 5; ++ranks) {
    for (const std::string shard : {"none", "optimizer", "gradients"}) {
      const ScratchFolder scratch;
      for (const std::string async : {"true", "false"}) {
        dist::simulate(ranks, [&](const dist::Communicator& world) {
          Trainer(recipe({"dist.shard=" + shard, "checkpoint.async=" + async}), world,
                  RunDirectory(scratch.path() / async))
              .run();
        });
      }
      const auto background = shards_in(scratch.path() / "true" / "checkpoints");
      EXPECT_EQ(background.size(), static_cast<std::size_t>(3 * ranks));
      EXPECT_EQ(background, shards_in(scratch.path() / "false" / "checkpoints"))
          << ranks << " ranks, " << shard;
    }
  }
}

/// A state of one tensor and a saver for it on each rank.
struct Trying {
  Trying(const dist::Communicator& world, const fs::path& folder, CheckpointOptions options = {})
      : mesh(world), saver(mesh, {.folder = folder, .resolved_recipe = "", .options = options}) {}
  void save(std::int64_t step, SaveKind kind = SaveKind::periodic) {
    saver.save([this](checkpoint::Scope& root) { root.tensor("x", x); }, step, kind);
  }
  /// Steps until the save has ended.
  void train() {
    for (bool more = true; more;) {
      const SaveFlags mine = saver.under_way().flags();
      std::int64_t flags[] = {mine.written, mine.failed, mine.sealed};
      mesh.world().all_reduce(std::span(flags), dist::ReduceOp::sum);
      saver.under_way().learn({.written = flags[0], .failed = flags[1], .sealed = flags[2]});
      more = flags[1] + flags[2] == 0;
      saver.after_step();
    }
  }
  void fail_from_now_on() {
    saver.publish_as(1, [] { fail(ExitCode::checkpoint, "The disk is full."); }, {});
  }

  dist::Mesh mesh;
  Saver saver;
  at::Tensor x = at::ones({1000});
};

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Saver, TheSecondFailureInARowEndsTheRunAndASuccessBetweenThemForgives) {
  set_log_level(LogLevel::error);
  const ScratchFolder scratch;
  dist::simulate(3, [&](const dist::Communicator& world) {
    Trying trying(world, scratch.path());
    trying.save(1);
    trying.train();
    EXPECT_EQ(trying.saver.newest(), scratch.path() / "step-00000001");
    EXPECT_GT(trying.saver.longest_save_s(), 0);
    trying.fail_from_now_on();
    trying.save(2);
    trying.train();
    EXPECT_EQ(trying.saver.newest(), scratch.path() / "step-00000001");
    trying.saver.publish_as(1, {}, {});
    trying.save(3);
    trying.train();
    trying.fail_from_now_on();
    trying.save(4);
    trying.train();
    trying.save(5);
    const std::string message = message_of([&] { trying.train(); });
    EXPECT_EQ(message,
              fmt::format("step 5 is not saved: rank 0: The disk is full. {} is intact. The save "
                          "before it failed, too, so the run ends here.",
                          (scratch.path() / "step-00000003").string()));
  });
  EXPECT_EQ(checkpoint::newest(scratch.path()), scratch.path() / "step-00000003");
}

TEST(Saver, AFailedLastSaveIsAnError) {
  set_log_level(LogLevel::error);
  const ScratchFolder scratch;
  dist::simulate(2, [&](const dist::Communicator& world) {
    Trying trying(world, scratch.path());
    trying.fail_from_now_on();
    EXPECT_EQ(message_of([&] { trying.save(1, SaveKind::last); }),
              "step 1 is not saved: rank 0: The disk is full. There is no earlier checkpoint.");
  });
}

std::atomic<bool> is_held = false;

TEST(Saver, ASaveThatIsDueWhileAnotherIsUnderWayWaitsForItAndSaysSo) {
  const ScratchFolder scratch;
  const fs::path log = scratch.path() / "log";
  set_log_level(LogLevel::info);
  set_log_file(log.string());
  is_held = true;
  checkpoint::on_save_step([](checkpoint::SaveStep at, std::int64_t) {
    while (at == checkpoint::SaveStep::shard_written && is_held)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  dist::simulate(2, [&](const dist::Communicator& world) {
    Trying trying(world, scratch.path());
    trying.save(1);
    if (world.is_root()) {
      std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        is_held = false;
      }).detach();
    }
    trying.save(2);
    EXPECT_EQ(trying.saver.newest(), scratch.path() / "step-00000001");
    EXPECT_GE(trying.saver.waited_s(), 0.05);
    trying.saver.settle();
    EXPECT_EQ(trying.saver.newest(), scratch.path() / "step-00000002");
  });
  checkpoint::on_save_step(nullptr);
  set_log_file("");
  set_log_level(LogLevel::error);
  const std::string said = read_text_file(log, 1 << 20, ExitCode::environment);
  EXPECT_NE(said.find("step 2 is to be saved while step 1 still was: waited 0."), std::string::npos)
      << said;
  EXPECT_NE(said.find("saved step 1: "), std::string::npos) << said;
  EXPECT_NE(said.find("saved step 2: "), std::string::npos) << said;
}

TEST(Saver, AnErrorInTheRunKeepsTheSaveThatWasUnderWay) {
  const ScratchFolder scratch;
  const configs::Recipe diverging =
      recipe({"optim.learning_rate=1e300", "train.on_nonfinite=stop", "checkpoint.every=1"});
  EXPECT_THROW(dist::simulate(2,
                              [&](const dist::Communicator& world) {
                                Trainer(diverging, world, RunDirectory(scratch.path())).run();
                              }),
               Error);
  const auto newest = checkpoint::newest(scratch.path() / "checkpoints");
  ASSERT_TRUE(newest);
  for (const auto& entry : fs::directory_iterator(scratch.path() / "checkpoints"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp")) << entry.path();
}

}  // namespace
}  // namespace trestle::trainers
