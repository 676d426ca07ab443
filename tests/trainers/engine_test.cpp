// The engine against the plain step over random models, its shard modes against each other, and
// what the comparison notices.
#include "trainers/engine.h"

#include "dist/simulated.h"
#include "tests/trainers/trial.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

namespace trestle::trainers {
namespace {

using testing::expect_equal_bits;
using testing::RandomTaskOptions;
using testing::Result;
using testing::Trial;

/// On simulated ranks.
Result run(const Trial& trial) {
  Result result;
  dist::simulate(trial.ranks, [&](const dist::Communicator& world) {
    const Result mine = run_trial(trial, world);
    if (world.is_root()) result = mine;
  });
  return result;
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

TEST(Engine, MetricsGoOverAllSamplesWhoeverHasThem) {
  Trial trial{.model = {.seed = 3}, .ranks = 1, .global_batch = 10, .micro_batch = 10};
  const Result whole = run(trial);
  ASSERT_EQ(whole.metrics.size(), 3U);
  for (const auto& [ranks, micro_batch] : {std::pair(1, 3), std::pair(2, 5), std::pair(3, 1)}) {
    trial.ranks = ranks;
    trial.micro_batch = micro_batch;
    const Result split = run(trial);
    for (std::size_t step = 0; step < whole.metrics.size(); ++step) {
      const auto &a = whole.metrics[step], &b = split.metrics[step];
      // Bin 1 of by_id is that of the rest 2, bin 0 of rests 0 and 1; nothing falls into bin 2.
      for (const char* name : {"size", "largest", "by_id/0", "by_id/1", "odd"})
        ASSERT_TRUE(a.contains(name)) << name;
      EXPECT_EQ(a.size(), 5U);
      ASSERT_EQ(a.size(), b.size()) << ranks << " ranks, step " << step;
      for (const auto& [name, value] : a)
        EXPECT_NEAR(b.at(name), value, 1e-12) << name << ", " << ranks << " ranks";
      EXPECT_GT(a.at("largest"), a.at("size"));
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

TEST(Paranoid, DoesNotChangeTheRun) {
  Trial trial{.model = {.seed = 61, .lives = true}};
  const Result watched = run(trial);
  trial.paranoid = false;
  expect_equal_bits(watched, run(trial), "unwatched");
}

/// The sentence of the run, in which the engine sees another loss than the plain step does.
std::string verdict(Trial trial, double drift) {
  trial.model.drift = drift;
  try {
    run(trial);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numbers);
    return error.what();
  }
  return "";
}

TEST(Paranoid, NamesADifferenceThatIsMoreThanTheOrderOfSums) {
  const Trial same_order{.model = {.seed = 71}};
  EXPECT_EQ(verdict(same_order, 0), "");
  const std::string sentence = verdict(same_order, 1e-6);
  EXPECT_NE(sentence.find("step 0: rank 0: the gradients of p"), std::string::npos) << sentence;

  const Trial another_order{.model = {.seed = 71, .dtypes = {at::kFloat, at::kDouble}},
                            .shard = dist::ShardMode::gradients,
                            .global_batch = 6,
                            .micro_batch = 1};
  EXPECT_EQ(verdict(another_order, 1e-9), "");
  EXPECT_NE(verdict(another_order, 1e-5), "");
}

// (Where the ranks' parts of a parameter of one element nearly cancel, their rounding is more than
// the bound allows for. In these models none do.)
TEST(Paranoid, ABf16WireMayRoundAndNoMore) {
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    for (unsigned seed = 81; seed <= 83; ++seed) {
      const Trial trial{.model = {.seed = seed}, .shard = shard, .wire = dist::WireDtype::bf16};
      EXPECT_EQ(verdict(trial, 0), "") << "seed " << seed;
      EXPECT_NE(verdict(trial, 0.05), "") << "seed " << seed;
    }
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
