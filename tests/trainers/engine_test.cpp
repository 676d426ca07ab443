// The engine against the plain step over random models, and its shard modes against each other.
#include "trainers/engine.h"

#include "base/error.h"
#include "base/log.h"
#include "dist/simulated.h"
#include "tests/trainers/random_task.h"
#include "trainers/paranoid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <mutex>

namespace trestle::trainers {
namespace {

using testing::RandomTask;
using testing::RandomTaskOptions;

struct Trial {
  RandomTaskOptions model;
  int ranks = 2;
  dist::ShardMode shard = dist::ShardMode::optimizer;
  dist::WireDtype wire = dist::WireDtype::sum;
  std::int64_t global_batch = 10, micro_batch = 5, steps = 3;
  std::int64_t bucket_bytes = 3000;
  bool paranoid = true;
  std::function<std::unique_ptr<const Optimizer>(const GroupOptions&)> make_optimizer =
      EngineOptions::fused_adamw;
  std::string hosts = {};  ///< a letter a rank: two levels over them; empty: one
};

const std::vector<NamedAverage> kAverages = {
    {.name = "ema", .options = {.decay = 0.9}},
    {.name = "ema.fast", .options = {.schedule = "constant", .decay = 0.25}}};

struct Result {
  std::vector<at::Tensor> parameters;
  std::vector<double> losses, norms;
  std::vector<std::string> not_finite;
};

dist::CollectivesOptions levels_of(const Trial& trial) {
  if (trial.hosts.empty()) return {};
  std::vector<std::string> names;
  for (const char letter : trial.hosts) names.emplace_back(1, letter);
  return {.two_level = dist::Topology(names)};
}

/// What every rank has in the end; they must agree.
Result run(const Trial& trial) {
  set_log_level(LogLevel::error);
  Result result;
  std::mutex mutex;
  dist::simulate(trial.ranks, [&](const dist::Communicator& world) {
    RandomTask task(trial.model);
    const auto gradients = dist::make_collectives(world, "gradients", levels_of(trial)),
               plain = dist::make_collectives(world);
    const EngineOptions options{.reducer = {.shard = trial.shard, .wire = trial.wire},
                                .bucket_bytes = trial.bucket_bytes,
                                .max_grad_norm = 0.5,
                                .averages = kAverages,
                                .every_group = {.adamw = {.learning_rate = 0.01}, .schedule = {}},
                                .groups = {},
                                .make_optimizer = trial.make_optimizer};
    Engine engine(task, *gradients, options);
    Paranoid paranoid(task, engine, *plain, options);
    const data::Dataset& points = task.dataset(Split::train);
    const data::Sampler sampler(3, points.size());
    const data::BatchPlan plan(trial.global_batch, trial.micro_batch, world.rank(), world.size());
    const Draws draws(3);
    data::BadSamples bad(0);
    Result mine;
    for (std::int64_t step = 0; step < trial.steps; ++step) {
      const KindCounts kinds = count_kinds(points, sampler, plan.global_batch({step}));
      std::int64_t micro = 0;
      const StepInputs inputs{.step = {step},
                              .draws = draws,
                              .kinds = kinds,
                              .micro_steps = plan.micro_steps(),
                              .next_batch =
                                  [&] {
                                    const auto positions = plan.micro_batch({step}, micro++);
                                    std::vector<data::SampleId> ids;
                                    for (const auto p : positions) ids.push_back(sampler.at(p));
                                    if (ids.empty()) return data::Batch{};
                                    data::Batch batch = points.load(ids);
                                    batch.positions = positions;
                                    return batch;
                                  },
                              .bad_samples = bad};
      const StepReport report = trial.paranoid ? paranoid.step(inputs) : engine.step(inputs);
      mine.losses.push_back(report.objectives.front().loss);
      mine.norms.push_back(report.objectives.front().grad_norm);
      mine.not_finite.push_back(report.not_finite());
    }
    engine.wait();
    for (const auto& parameter : engine.parameters())
      mine.parameters.push_back(parameter.tensor.detach().clone());
    const std::lock_guard lock(mutex);
    if (result.parameters.empty()) result = mine;
    for (std::size_t i = 0; i < mine.parameters.size(); ++i)
      EXPECT_TRUE(at::equal(mine.parameters[i], result.parameters[i])) << "rank " << world.rank();
    EXPECT_EQ(mine.losses, result.losses);
    EXPECT_EQ(mine.not_finite, result.not_finite);
  });
  return result;
}

void expect_equal_bits(const Result& a, const Result& b, const std::string& where) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size());
  for (std::size_t i = 0; i < a.parameters.size(); ++i)
    EXPECT_TRUE(at::equal(a.parameters[i], b.parameters[i])) << where << ", parameter " << i;
  EXPECT_EQ(a.losses, b.losses) << where;
  EXPECT_EQ(a.norms, b.norms) << where;
}

TEST(Engine, EqualsThePlainStepOverRandomModels) {
  for (unsigned seed = 1; seed <= 8; ++seed) {
    for (int ranks = 1; ranks <= 5; ++ranks) {
      Trial trial{.model = {.seed = seed}, .ranks = ranks, .global_batch = 2 * ranks};
      trial.micro_batch = 2;
      const Result none = run((trial.shard = dist::ShardMode::none, trial));
      const Result optimizer = run((trial.shard = dist::ShardMode::optimizer, trial));
      const Result gradients = run((trial.shard = dist::ShardMode::gradients, trial));
      const std::string where = fmt::format("seed {}, {} ranks", seed, ranks);
      expect_equal_bits(none, optimizer, where);
      expect_equal_bits(none, gradients, where);
      // The plain step waits for all parameters first; alone the engine's forward reads them while
      // they arrive.
      trial.paranoid = false;
      expect_equal_bits(none, run(trial), where + ", alone");
      expect_equal_bits(none, run((trial.shard = dist::ShardMode::optimizer, trial)),
                        where + ", alone");
    }
  }
}

TEST(Engine, EqualsThePlainStepWithMicroBatchesAndUnevenShares) {
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    for (unsigned seed = 11; seed <= 14; ++seed)
      run({.model = {.seed = seed, .dtypes = {at::kFloat, at::kDouble}},
           .ranks = 3,
           .shard = shard,
           .global_batch = 7,
           .micro_batch = 1});
  }
}

TEST(Engine, ObjectivesAlternateAndGroupsLiveTheirOwnLives) {
  for (unsigned seed = 51; seed <= 56; ++seed) {
    for (int ranks = 1; ranks <= 3; ++ranks) {
      Trial trial{.model = {.seed = seed, .lives = true}, .ranks = ranks};
      trial.global_batch = 2 * ranks;
      trial.micro_batch = 2;
      trial.steps = 5;
      const Result none = run((trial.shard = dist::ShardMode::none, trial));
      const std::string where = fmt::format("seed {}, {} ranks", seed, ranks);
      expect_equal_bits(none, run((trial.shard = dist::ShardMode::optimizer, trial)), where);
      expect_equal_bits(none, run((trial.shard = dist::ShardMode::gradients, trial)), where);
    }
  }
}

/// Moves along the gradient divided by the norm of its whole group.
class NormalisedDescent : public Optimizer {
 public:
  std::span<const std::string_view> state_names() const override { return {}; }
  int rounds() const override { return 1; }
  std::size_t sums_of(int) const override { return 1; }
  void contribute(int, std::span<const Shard> shards, const StepScalars&,
                  std::span<double> sums) const override {
    for (const Shard& shard : shards)
      sums[0] += shard.gradient.to(at::kDouble).square().sum().item<double>();
  }
  void step(const Shard& shard, const StepScalars& scalars) const override {
    if (scalars.sums[0] == 0) return;  // no loss reaches the group
    const double factor = scalars.learning_rate / std::sqrt(scalars.sums[0]);
    shard.master.sub_(shard.gradient, factor);
    if (shard.parameter.defined()) at::Tensor(shard.parameter).copy_(shard.master);
  }
};

TEST(Engine, AnOptimizerGetsItsGlobalSumsFirst) {
  const auto descent = [](const GroupOptions&) { return std::make_unique<NormalisedDescent>(); };
  for (const unsigned seed : {61U, 62U, 63U}) {
    Trial trial{.model = {.seed = seed, .dtypes = {at::kFloat, at::kDouble}},
                .ranks = 1,
                .steps = 1,
                .paranoid = false,
                .make_optimizer = descent};
    const Result alone = run(trial);
    trial.ranks = 2;
    const Result none = run((trial.shard = dist::ShardMode::none, trial));
    expect_equal_bits(none, run((trial.shard = dist::ShardMode::optimizer, trial)), "optimizer");
    expect_equal_bits(none, run((trial.shard = dist::ShardMode::gradients, trial)), "gradients");
    trial.steps = 0;
    const Result before = run(trial);
    double moved = 0;
    for (std::size_t i = 0; i < none.parameters.size(); ++i) {
      EXPECT_TRUE(at::allclose(none.parameters[i], alone.parameters[i], 1e-5, 1e-6)) << i;
      moved +=
          (none.parameters[i] - before.parameters[i]).to(at::kDouble).square().sum().item<double>();
    }
    // Each group that a loss reaches moved by the learning rate, so the squares count them.
    const double groups = moved / (0.01 * 0.01);
    EXPECT_NEAR(groups, std::round(groups), 1e-3);
    EXPECT_GE(groups, 0.999);
  }
}

TEST(Engine, BucketSizesChangeNothing) {
  const Result small = run({.model = {.seed = 21}, .bucket_bytes = 4});
  const Result large = run({.model = {.seed = 21}, .bucket_bytes = 1 << 20});
  expect_equal_bits(small, large, "buckets");
}

TEST(Engine, TwoLevelsEqualThePlainStepToRoundingAndEachOtherBitByBit) {
  // paranoid compares with the plain step, which sums in one level.
  for (const auto* hosts : {"aabb", "abba", "ababab", "aaabbb", "aabbccdd"}) {
    for (unsigned seed = 61; seed <= 64; ++seed) {
      Trial trial{.model = {.seed = seed}, .hosts = hosts};
      trial.ranks = static_cast<int>(trial.hosts.size());
      trial.global_batch = 2 * trial.ranks;
      trial.micro_batch = 2;
      const std::string where = fmt::format("seed {}, hosts {}", seed, hosts);
      const Result none = run((trial.shard = dist::ShardMode::none, trial));
      expect_equal_bits(none, run((trial.shard = dist::ShardMode::optimizer, trial)), where);
      expect_equal_bits(none, run((trial.shard = dist::ShardMode::gradients, trial)), where);
      expect_equal_bits(none, run((trial.bucket_bytes = 100, trial)), where);
    }
  }
}

TEST(Engine, TwoLevelsAreAnotherOrder) {
  Trial trial{.model = {.seed = 62, .dtypes = {at::kFloat}}, .ranks = 4, .global_batch = 16};
  trial.micro_batch = 4;
  const auto gradients_of_first_step = [&](const char* hosts) {
    trial.hosts = hosts;
    return run(trial).norms[0];
  };
  const double one = gradients_of_first_step(""), two = gradients_of_first_step("aabb");
  EXPECT_NE(one, two);
  EXPECT_NE(two, gradients_of_first_step("abab"));
  EXPECT_EQ(two, gradients_of_first_step("ccdd"));
}

TEST(Engine, TwoLevelsWithMicroBatchesObjectivesAndABf16Wire) {
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    run({.model = {.seed = 71, .dtypes = {at::kFloat, at::kDouble}},
         .ranks = 4,
         .shard = shard,
         .global_batch = 10,
         .micro_batch = 1,
         .hosts = "aabb"});
    run({.model = {.seed = 72, .lives = true},
         .ranks = 4,
         .shard = shard,
         .steps = 5,
         .hosts = "abab"});
    // Each contribution is rounded, and so is each host's sum.
    const RandomTaskOptions model{.seed = 31, .dtypes = {at::kFloat}};
    const Result rounded = run({.model = model,
                                .ranks = 4,
                                .shard = shard,
                                .wire = dist::WireDtype::bf16,
                                .hosts = "aabb"});
    const Result exact = run({.model = model, .ranks = 4, .shard = shard, .hosts = "aabb"});
    EXPECT_NE(rounded.norms, exact.norms);
    EXPECT_NEAR(rounded.norms[0] / exact.norms[0], 1, 4e-3);
  }
}

TEST(Engine, ABf16WireRoundsContributionsNotSums) {
  const RandomTaskOptions model{.seed = 31, .dtypes = {at::kFloat}};
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    const Result rounded = run({.model = model, .shard = shard, .wire = dist::WireDtype::bf16});
    const Result exact = run({.model = model, .shard = shard});
    EXPECT_NE(rounded.norms, exact.norms);
    EXPECT_NEAR(rounded.norms[0] / exact.norms[0], 1, 2e-3);
  }
}

TEST(Engine, OverflowSkipsTheStepAndNamesWhatOverflowed) {
  const Trial trial{.model = {.seed = 41, .dtypes = {at::kFloat}, .scale = 1e300}};
  const Result result = run(trial);
  const Result untouched = [&] {
    Trial still = trial;
    still.steps = 0;
    return run(still);
  }();
  for (std::size_t i = 0; i < result.parameters.size(); ++i)
    EXPECT_TRUE(at::equal(result.parameters[i], untouched.parameters[i]));
  for (std::size_t step = 0; step < result.not_finite.size(); ++step) {
    EXPECT_NE(result.not_finite[step].find(fmt::format("rank 0: step {}: the gradient of p", step)),
              std::string::npos)
        << result.not_finite[step];
  }
}

}  // namespace
}  // namespace trestle::trainers
