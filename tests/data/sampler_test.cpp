#include "data/sampler.h"

#include "base/error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace trestle::data {
namespace {

TEST(Sampler, EveryEpochVisitsEverySampleOnce) {
  for (const std::int64_t size : {1, 2, 3, 7, 64, 65, 1000, 4097}) {
    const Sampler sampler(5, size);
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::set<SampleId> seen;
      for (std::int64_t i = 0; i < size; ++i) seen.insert(sampler.at({epoch * size + i}));
      EXPECT_EQ(std::int64_t(seen.size()), size);
      EXPECT_EQ(*seen.begin(), 0);
      EXPECT_EQ(*seen.rbegin(), size - 1);
    }
  }
}

TEST(Sampler, SkippingFromAnyPlaceVisitsTheEpochOnceInItsOrder) {
  for (const std::int64_t size : {1, 2, 7, 64, 65}) {
    const Sampler sampler(5, size);
    for (const std::int64_t epoch : {0, 3}) {
      for (std::int64_t place = 0; place < size; ++place) {
        const Position position{epoch * size + place};
        EXPECT_EQ(sampler.at(position, 0), sampler.at(position));
        for (std::int64_t skip = 0; skip < size; ++skip) {
          EXPECT_EQ(sampler.at(position, skip), sampler.at({epoch * size + (place + skip) % size}));
        }
      }
    }
  }
}

TEST(Sampler, EpochsAndSeedsHaveOtherOrders) {
  const auto order = [](std::uint64_t seed, std::int64_t epoch) {
    const Sampler sampler(seed, 100);
    std::vector<SampleId> ids;
    for (std::int64_t i = 0; i < 100; ++i) ids.push_back(sampler.at({epoch * 100 + i}));
    return ids;
  };
  EXPECT_NE(order(1, 0), order(1, 1));
  EXPECT_NE(order(1, 0), order(2, 0));
  EXPECT_EQ(order(1, 7), order(1, 7));
  auto sorted = order(1, 0);
  EXPECT_FALSE(std::ranges::is_sorted(sorted));
}

TEST(Sampler, FirstPlacesAreUniform) {
  // The sample at an epoch's first place, over many epochs: every id about equally often.
  constexpr std::int64_t kSize = 10, kEpochs = 20000;
  const Sampler sampler(3, kSize);
  std::vector<double> counts(kSize, 0);
  for (std::int64_t epoch = 0; epoch < kEpochs; ++epoch) ++counts[sampler.at({epoch * kSize})];
  double chi_squared = 0;
  for (const double count : counts) {
    chi_squared += (count - kEpochs / kSize) * (count - kEpochs / kSize) / (kEpochs / kSize);
  }
  EXPECT_LT(chi_squared, 27.9);  // 99.9 % point of 9 degrees of freedom
}

TEST(Sampler, EmptyDataSetIsRefused) { EXPECT_THROW(Sampler(1, 0), Error); }

TEST(BatchPlan, RanksTogetherSeeTheGlobalBatchOnce) {
  for (const std::int64_t global : {4, 7, 12, 13}) {
    for (int world = 1; world <= 4; ++world) {
      for (const std::int64_t micro : {1, 2, 5}) {
        std::vector<Position> seen;
        std::int64_t micro_steps = -1;
        for (int rank = 0; rank < world; ++rank) {
          const BatchPlan plan(global, micro, rank, world);
          if (micro_steps < 0) micro_steps = plan.micro_steps();
          EXPECT_EQ(plan.micro_steps(), micro_steps);
          std::int64_t here = 0;
          for (std::int64_t m = 0; m < plan.micro_steps(); ++m) {
            const auto batch = plan.micro_batch({3}, m);
            EXPECT_LE(std::int64_t(batch.size()), micro);
            here += std::int64_t(batch.size());
            seen.insert(seen.end(), batch.begin(), batch.end());
          }
          EXPECT_EQ(here, plan.samples_here());
          EXPECT_LE(plan.samples_here(), (global + world - 1) / world);
        }
        EXPECT_EQ(seen, BatchPlan(global, micro, 0, world).global_batch({3}));
        EXPECT_EQ(seen.front().value, 3 * global);
      }
    }
  }
}

}  // namespace
}  // namespace trestle::data
