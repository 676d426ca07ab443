// The loop on the line_fit task: it learns, any number of ranks gives the same result, a resumed
// run equals an uninterrupted one, and an error on one rank reaches all.
#include "trainers/trainer.h"

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"
#include "tests/support/lone_assembly.h"
#include "tests/support/scratch.h"
#include "trainers/check_recipe.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <fstream>

namespace trestle::trainers {
namespace {

constexpr std::string_view kRecipe = R"(
[run]
task = "line_fit"
[train]
steps = 30
global_batch = 12
micro_batch = 1
[optim]
learning_rate = 0.1
[ema]
decay = 0.5
[log]
level = "error"
)";

using Scratch = testing::ScratchFolder;

configs::Recipe recipe(const std::vector<std::string>& sets = {}) {
  set_log_level(LogLevel::error);
  return configs::Recipe::from_text(kRecipe, "test", sets);
}

/// Trains in `folder` and returns the last checkpoint's parameters, concatenated.
at::Tensor train(int ranks, const std::filesystem::path& folder,
                 const std::vector<std::string>& sets = {}) {
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    Trainer(recipe(sets), world, RunDirectory(folder)).run();
  });
  testing::LoneAssembly lone(recipe(sets));
  Assembly& assembly = lone.assembly;
  TrainingState state = assembly.state();
  checkpoint::load(*checkpoint::newest(folder / "checkpoints"), state.visitor());
  std::vector<at::Tensor> flat;
  for (const auto& parameter : assembly.engine.parameters())
    flat.push_back(parameter.tensor.detach().flatten());
  return at::cat(flat);
}

TEST(Trainer, LearnsTheLine) {
  const Scratch scratch;
  const at::Tensor fitted = train(1, scratch.path(), {"train.steps=300", "train.micro_batch=12"});
  EXPECT_LT((fitted - at::tensor({1.0, 2.0, 3.0, 0.5}, at::kDouble)).abs().max().item<double>(),
            0.02);
  EXPECT_TRUE(std::filesystem::exists(scratch.path() / "summary.json"));
  EXPECT_TRUE(std::filesystem::exists(scratch.path() / "samples" / "step-00000300.png"));
}

TEST(Trainer, AnyNumberOfRanksGivesTheSameWeights) {
  const Scratch scratch;
  const at::Tensor one = train(1, scratch.path() / "1");
  for (int ranks = 2; ranks <= 5; ++ranks) {
    const at::Tensor many = train(ranks, scratch.path() / std::to_string(ranks));
    EXPECT_LT(((many - one).norm() / one.norm()).item<double>(), 1e-12) << ranks;
  }
}

TEST(Trainer, MicroBatchesOnlyChangeRounding) {
  const Scratch scratch;
  const at::Tensor one = train(1, scratch.path() / "a");
  const at::Tensor five = train(1, scratch.path() / "b", {"train.micro_batch=5"});
  EXPECT_LT(((five - one).norm() / one.norm()).item<double>(), 1e-12);
}

TEST(Trainer, BucketSizesDoNotChangeABit) {
  const Scratch scratch;
  const at::Tensor one = train(2, scratch.path() / "a");
  const at::Tensor tiny = train(2, scratch.path() / "b", {"dist.bucket_bytes=4"});
  EXPECT_TRUE(at::equal(one, tiny));
}

TEST(Trainer, ResumedRunEqualsUninterruptedOne) {
  const Scratch scratch;
  const at::Tensor whole = train(2, scratch.path() / "whole");
  // Stop at step 10 of 30 by training the first third only; constant rate, so the plan is the same.
  train(2, scratch.path() / "parts", {"train.steps=10"});
  const at::Tensor parts = train(2, scratch.path() / "parts");
  EXPECT_TRUE(at::equal(whole, parts));
  const at::Tensor other_world = train(3, scratch.path() / "whole3");
  EXPECT_LT(((other_world - whole).norm() / whole.norm()).item<double>(), 1e-12);
}

TEST(Trainer, MetricsHaveEachStepOnceAfterResuming) {
  const Scratch scratch;
  train(1, scratch.path(), {"train.steps=20", "checkpoint.every=5"});
  std::filesystem::remove_all(scratch.path() / "checkpoints" / "step-00000020");
  train(1, scratch.path(), {"train.steps=25"});
  std::ifstream in(scratch.path() / "metrics.jsonl");
  std::int64_t lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    EXPECT_NE(line.find(fmt::format("\"step\":{},", lines)), std::string::npos) << line;
  }
  EXPECT_EQ(lines, 25);
}

TEST(Trainer, CompleteRunIsLeftAlone) {
  const Scratch scratch;
  train(1, scratch.path());
  const auto before = std::filesystem::last_write_time(scratch.path() / "summary.json");
  train(1, scratch.path());
  EXPECT_EQ(std::filesystem::last_write_time(scratch.path() / "summary.json"), before);
}

TEST(Trainer, DivergenceIsAnErrorOfCodeSixOnEveryRank) {
  const Scratch scratch;
  std::atomic<int> codes{0};
  dist::simulate(2, [&](const dist::Communicator& world) {
    try {
      Trainer(recipe({"optim.learning_rate=1e308", "train.max_grad_norm=0", "task.dtype=float32",
                      "train.on_nonfinite=stop"}),
              world, RunDirectory(scratch.path()))
          .run();
    } catch (const Error& error) {
      if (error.code() == ExitCode::numbers) ++codes;
    }
  });
  EXPECT_EQ(codes, 2);
}

/// The error that two ranks agree on, its code checked; and that each of them threw it.
std::string agreed_error(ExitCode code, const std::filesystem::path& folder,
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

TEST(Trainer, NotANumberNamesRankStepAndTensor) {
  const Scratch scratch;
  const std::string message = agreed_error(ExitCode::numbers, scratch.path(),
                                           {"task.poisoned=7", "train.on_nonfinite=stop"});
  EXPECT_NE(message.find("rank "), std::string::npos) << message;
  EXPECT_NE(message.find("step "), std::string::npos) << message;
  EXPECT_NE(message.find("x of sample 7"), std::string::npos) << message;
}

TEST(Trainer, ABadSampleIsReplacedAndOneTooManyEndsTheRunSaved) {
  const Scratch scratch;
  const at::Tensor one = train(1, scratch.path() / "1", {"task.unreadable=[7]"});
  const at::Tensor two = train(2, scratch.path() / "2", {"task.unreadable=[7]"});
  EXPECT_LT(((two - one).norm() / one.norm()).item<double>(), 1e-12);

  // Met in step 1, after step 0 was done: that step is not lost.
  const auto id = data::Sampler(0, 20).at(Position{6});
  const auto folder = scratch.path() / "strict";
  const std::string message = agreed_error(
      ExitCode::data, folder,
      {fmt::format("task.unreadable=[{}]", id), "data.max_bad=0", "train.global_batch=4"});
  EXPECT_NE(message.find("data.max_bad"), std::string::npos) << message;
  EXPECT_EQ(checkpoint::read_manifest(*checkpoint::newest(folder / "checkpoints")).step, 1);
}

/// One rank is asked to stop before the run begins.
Outcome run_and_stop(int ranks, const std::filesystem::path& folder) {
  std::atomic<int> stopped{0};
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    StopSource source;
    if (world.rank() == ranks - 1) source.request(SIGTERM);
    const Outcome outcome =
        Trainer(recipe(), world, RunDirectory(folder), {.stop = source.token()}).run();
    if (outcome == Outcome::stopped) ++stopped;
  });
  return stopped == ranks ? Outcome::stopped : Outcome::complete;
}

TEST(Trainer, AStopAskedOfOneRankStopsAllAndLosesNothing) {
  const Scratch scratch;
  const at::Tensor whole = train(3, scratch.path() / "whole");
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(run_and_stop(3, scratch.path() / "parts"), Outcome::stopped);
  EXPECT_TRUE(at::equal(whole, train(3, scratch.path() / "parts")));
}

TEST(Trainer, AnotherRecipeIsRefusedUnlessAccepted) {
  const Scratch scratch;
  train(1, scratch.path(), {"train.steps=5"});
  // What does not decide the result may change.
  train(1, scratch.path(), {"train.steps=8", "log.every=3", "checkpoint.every=2"});
  const std::vector<std::string> changed = {"train.steps=10", "optim.learning_rate=0.05"};
  const std::string message = agreed_error(ExitCode::checkpoint, scratch.path(), changed);
  EXPECT_NE(message.find("optim.learning_rate: 0.1 there, 0.05 now"), std::string::npos) << message;
  EXPECT_NE(message.find("--accept-changes"), std::string::npos) << message;
  EXPECT_EQ(message.find("train.steps"), std::string::npos) << message;

  dist::simulate(1, [&](const dist::Communicator& world) {
    Trainer(recipe(changed), world, RunDirectory(scratch.path()),
            {.changed_recipe = ChangedRecipe::accept})
        .run();
  });
  EXPECT_EQ(checkpoint::read_manifest(*checkpoint::newest(scratch.path() / "checkpoints")).step,
            10);
}

TEST(Trainer, ADirectoryOfAnotherRecipeWithoutACheckpointIsRefused) {
  const Scratch scratch;
  train(1, scratch.path(), {"train.steps=5"});
  std::filesystem::remove_all(scratch.path() / "checkpoints");
  const std::string message =
      agreed_error(ExitCode::usage, scratch.path(), {"train.steps=5", "run.seed=3"});
  EXPECT_NE(message.find("run.seed: 0 there, 3 now"), std::string::npos) << message;
}

std::string problem_of(const std::vector<std::string>& sets, int world) {
  try {
    check_recipe(recipe(sets), world);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

/// Trains on simulated hosts and returns the checkpoint's manifest.
checkpoint::Manifest train_on(const std::vector<std::string>& hosts,
                              const std::filesystem::path& folder,
                              const std::vector<std::string>& sets) {
  const configs::Recipe loaded = recipe(sets);
  set_log_level(LogLevel::warn);
  dist::simulate(static_cast<int>(hosts.size()), [&](const dist::Communicator& world) {
    Trainer(loaded, world, RunDirectory(folder), {.hosts = hosts}).run();
  });
  return checkpoint::read_manifest(*checkpoint::newest(folder / "checkpoints"));
}

TEST(Trainer, TwoLevelsStandInTheManifestAndAChangeIsSaid) {
  const Scratch scratch;
  const auto said_after = [&](const std::vector<std::string>& hosts, const std::string& steps,
                              std::vector<std::string> sets = {}) {
    sets.push_back("train.steps=" + steps);
    set_log_file((scratch.path() / ("log" + steps)).string());
    const auto manifest = train_on(hosts, scratch.path() / "run", sets);
    set_log_file("");
    std::ifstream in(scratch.path() / ("log" + steps));
    const std::string text(std::istreambuf_iterator<char>(in), {});
    return std::pair(*manifest.topology, text);
  };
  using Record = checkpoint::TopologyRecord;
  const auto [first, nothing] = said_after({"a", "a", "b", "b"}, "3");
  EXPECT_EQ(first, (Record{.host_of_rank = {0, 0, 1, 1}, .levels = 2}));
  EXPECT_EQ(nothing.find("another order"), std::string::npos) << nothing;

  // The same placement under other names is the same order.
  EXPECT_EQ(said_after({"x", "x", "a", "a"}, "5").second.find("another order"), std::string::npos);
  EXPECT_NE(said_after({"a", "b", "a", "b"}, "7")
                .second.find("summed in another order from here on (2 hosts x 2 ranks in two "
                             "levels before, the same with other ranks on each host now)"),
            std::string::npos);
  const auto [off, said] = said_after({"a", "a", "b", "b"}, "9", {"dist.two_level=false"});
  EXPECT_EQ(off, (Record{.host_of_rank = {0, 0, 1, 1}, .levels = 1}));
  EXPECT_NE(said.find("(2 hosts x 2 ranks in two levels before, 4 ranks in one level now)"),
            std::string::npos)
      << said;
  // In one level only the number of ranks counts.
  EXPECT_EQ(said_after({"a", "a", "a", "b"}, "11").second.find("another order"), std::string::npos);
  EXPECT_NE(said_after({"a", "a"}, "13")
                .second.find("(4 ranks in one level before, 2 ranks in one level now)"),
            std::string::npos);
  EXPECT_NE(said_after({"a", "a", "b", "b", "c", "c"}, "15")
                .second.find("(2 ranks in one level before, 3 hosts x 2 ranks in two levels now)"),
            std::string::npos);
}

TEST(Trainer, TwoLevelsLearnTheSameAndParanoidAgrees) {
  const Scratch scratch;
  const at::Tensor one = train(1, scratch.path() / "one");
  train_on({"a", "b", "a", "b"}, scratch.path() / "two",
           {"dist.two_level=true", "dist.paranoid=true"});
  const at::Tensor two = train(1, scratch.path() / "two");  // complete: only reads it
  EXPECT_LT(((two - one).norm() / one.norm()).item<double>(), 1e-12);
}

TEST(Trainer, TwoLevelsThatCannotBeAreRefused) {
  const Scratch scratch;
  const auto refusal = [&](const std::vector<std::string>& hosts) {
    std::atomic<int> thrown{0};
    std::string message;
    dist::simulate(static_cast<int>(hosts.size()), [&](const dist::Communicator& world) {
      try {
        Trainer(recipe({"dist.two_level=true"}), world, RunDirectory(scratch.path()),
                {.hosts = hosts});
      } catch (const dist::AgreedError& error) {
        if (error.code() == ExitCode::environment) ++thrown;
        if (world.is_root()) message = error.what();
      }
    });
    EXPECT_EQ(thrown, static_cast<int>(hosts.size()));
    return message;
  };
  EXPECT_NE(refusal({"a", "a", "a", "a"}).find("(all 4 ranks are on one host; two levels need"),
            std::string::npos);
  EXPECT_NE(refusal({"a", "a", "a", "b"}).find("(2 hosts do not hold equally many ranks;"),
            std::string::npos);
  EXPECT_NE(refusal({"a", "b", "c", "d"}).find("(every host holds one rank;"), std::string::npos);
}

TEST(CheckRecipe, FindsWhatCannotBe) {
  EXPECT_EQ(problem_of({}, 12), "");
  EXPECT_NE(problem_of({}, 13).find("train.global_batch = 12"), std::string::npos);
  EXPECT_NE(problem_of({"train.stepz=3"}, 1).find("steps"), std::string::npos);
  EXPECT_NE(problem_of({"run.task=line_fitt"}, 1).find("line_fit"), std::string::npos);
  for (const int world : {1, 2, 3, 5, 7}) {
    const std::string problem = problem_of({"dist.two_level=true"}, world);
    EXPECT_NE(problem.find(fmt::format("dist.two_level = true cannot be done by {} rank", world)),
              std::string::npos)
        << problem;
  }
  for (const int world : {4, 6, 9, 12}) EXPECT_EQ(problem_of({"dist.two_level=true"}, world), "");
  EXPECT_EQ(problem_of({"dist.two_level=auto"}, 1), "");
  const std::string problem = problem_of({"checkpoint.keep_last=0", "checkpoint.keep_every=10"}, 1);
  EXPECT_NE(problem.find("checkpoint.keep_every = 10 has no effect"), std::string::npos) << problem;
}

TEST(CheckRecipe, ASaveMustFailBeforeTheWatchdogEndsTheRun) {
  const std::string late = problem_of({"checkpoint.timeout_s=1800"}, 1);
  EXPECT_NE(late.find("--set checkpoint.timeout_s=1800: checkpoint.timeout_s = 1800 is not less "
                      "than dist.checkpoint_timeout_s = 1800"),
            std::string::npos)
      << late;
  const std::string early = problem_of({"dist.checkpoint_timeout_s=30"}, 1);
  EXPECT_NE(early.find("Raise it, or lower checkpoint.timeout_s"), std::string::npos) << early;
  EXPECT_EQ(problem_of({"checkpoint.timeout_s=1799"}, 1), "");
  EXPECT_EQ(problem_of({"checkpoint.timeout_s=9000", "dist.watchdog=false"}, 1), "");
}

}  // namespace
}  // namespace trestle::trainers
