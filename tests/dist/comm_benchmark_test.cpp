// The benchmark of collectives: it measures every size, its formulas are nccl-tests', it notices a
// wrong element, and the line it fits is the one that made the times.
#include "dist/comm_benchmark.h"

#include "dist/simulated.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace trestle::dist {
namespace {

CommTiming timing(CommOperation operation, int ranks, std::int64_t bytes, double seconds) {
  return {.operation = operation,
          .ranks = ranks,
          .bytes = bytes,
          .median_s = seconds,
          .fastest_s = seconds,
          .slowest_s = seconds};
}

TEST(CommBenchmark, EveryOperationAndNumberOfRanksPassesItsOwnCheck) {
  for (const int ranks : {1, 2, 3, 5}) {
    simulate(ranks, [&](const Communicator& world) {
      const auto collectives = make_collectives(world);
      for (const CommOperation operation : kCommOperations) {
        for (const std::int64_t bytes : {1, 100, 40000}) {
          const auto found =
              time_collective(*collectives, operation, bytes, {.warm_up = 1, .rounds = 3});
          EXPECT_EQ(found.ranks, ranks);
          EXPECT_EQ(found.bytes % (4 * ranks), 0);
          EXPECT_LE(found.bytes, std::max<std::int64_t>(bytes, 4 * ranks));
          EXPECT_GT(found.fastest_s, 0);
          EXPECT_LE(found.fastest_s, found.median_s);
          EXPECT_LE(found.median_s, found.slowest_s);
          std::vector<double> same = {found.median_s, -found.median_s};
          world.all_reduce(same, ReduceOp::max);
          EXPECT_EQ(same[0], -same[1]) << "ranks got different timings";
        }
      }
    });
  }
}

TEST(CommBenchmark, BandwidthsAreThoseOfNcclTests) {
  // 1e9 bytes in half a second over four ranks.
  const auto bus = [](CommOperation operation) {
    return timing(operation, 4, 1'000'000'000, 0.5).bus_bandwidth();
  };
  EXPECT_DOUBLE_EQ(timing(CommOperation::broadcast, 4, 1'000'000'000, 0.5).algorithm_bandwidth(),
                   2e9);
  EXPECT_DOUBLE_EQ(bus(CommOperation::all_reduce), 3e9);
  EXPECT_DOUBLE_EQ(bus(CommOperation::reduce_scatter), 1.5e9);
  EXPECT_DOUBLE_EQ(bus(CommOperation::all_gather), 1.5e9);
  EXPECT_DOUBLE_EQ(bus(CommOperation::broadcast), 2e9);
}

TEST(CommBenchmark, AWrongElementIsNamed) {
  constexpr int kRanks = 3;
  for (const CommOperation operation : kCommOperations) {
    // The right result on rank 2, by the definition of the data: rank r brings i % 1009 + r.
    const bool part = operation == CommOperation::reduce_scatter;
    const std::int64_t each = 2000, first = part ? 2 * each : 0;
    at::Tensor result = at::empty({part ? each : kRanks * each}, at::kFloat);
    float* values = result.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < result.numel(); ++i) {
      const std::int64_t base = (first + i) % 1009;
      values[i] = operation == CommOperation::broadcast    ? float(base)
                  : operation == CommOperation::all_gather ? float(base + i / each)
                                                           : float(3 * base + 0 + 1 + 2);
    }
    EXPECT_EQ(wrong_data(operation, result, 2, kRanks), "");
    reinterpret_cast<unsigned char*>(values + 1234)[0] ^= 1;  // the smallest error there is
    EXPECT_NE(wrong_data(operation, result, 2, kRanks).find("element 1234 of rank 2"),
              std::string::npos);
  }
}

TEST(CommBenchmark, FitFindsTheLine) {
  std::vector<CommTiming> timings;
  for (std::int64_t bytes = 1024; bytes <= 64 << 20; bytes *= 4) {
    timings.push_back(timing(CommOperation::all_reduce, 2, bytes, 20e-6 + double(bytes) / 3e9));
  }
  auto cost = fit_cost(timings);
  EXPECT_NEAR(cost.latency_s, 20e-6, 1e-9);
  EXPECT_NEAR(cost.bytes_per_s, 3e9, 1e6);
  // Times that noise has made fall with size, or a single one: still a positive cost.
  for (const auto& some :
       {std::vector{timings[3]}, std::vector{timing(CommOperation::broadcast, 2, 1000, 2e-5),
                                             timing(CommOperation::broadcast, 2, 4000, 1e-5)}}) {
    cost = fit_cost(some);
    EXPECT_GE(cost.latency_s, 0);
    EXPECT_GT(cost.bytes_per_s, 0);
    EXPECT_TRUE(std::isfinite(cost.bytes_per_s));
  }
}

TEST(CommBenchmark, TwoModesAreToldFromNoise) {
  const auto counts = [](const std::vector<double>& seconds) {
    std::vector<std::size_t> found;
    for (const Mode& mode : modes(seconds)) found.push_back(mode.count);
    return found;
  };
  using Counts = std::vector<std::size_t>;
  EXPECT_EQ(counts({}), Counts{});
  EXPECT_EQ(counts({1, 1.1, 1.2, 1.3, 1.2, 1.45, 1.1}), Counts{7});
  EXPECT_EQ(counts({1, 1.1, 9, 1.05, 1, 1, 1.1}), Counts{7});  // one slow round
  EXPECT_EQ(counts({2, 1, 1.9, 1.1, 1, 2.1, 1}), (Counts{4, 3}));
  const auto found = modes({2, 1, 1.9, 1.1, 1, 2.1, 1});
  EXPECT_DOUBLE_EQ(found[0].median, 1);
  EXPECT_DOUBLE_EQ(found[1].median, 2);

  CommTiming bimodal = timing(CommOperation::all_gather, 2, 1000, 1e-3);
  bimodal.modes = {{1e-3, 4}, {2e-3, 3}};
  EXPECT_NEAR(fit_cost(std::span(&bimodal, 1)).bytes_per_s, 1e6, 1);
  EXPECT_NEAR(fit_cost(std::span(&bimodal, 1), /*slow=*/true).bytes_per_s, 5e5, 1);
}

}  // namespace
}  // namespace trestle::dist
