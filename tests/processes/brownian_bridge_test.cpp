// Identities of the bridge (ViBT, arXiv:2511.23199, in reversed time).
#include "processes/brownian_bridge.h"

#include "base/torch/draws.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::processes {
namespace {

const auto kDouble = at::TensorOptions().dtype(at::kDouble);

std::vector<Position> rows(std::int64_t count) {
  std::vector<Position> result;
  for (std::int64_t i = 0; i < count; ++i) result.push_back({i});
  return result;
}

struct Pair {
  at::Tensor source, target;
};

/// The same pair of `dim` numbers in `count` rows.
Pair pair(std::int64_t count, std::int64_t dim) {
  const Draws draws(1);
  return {draws.normal(Purpose("source"), {dim}, kDouble).expand({count, dim}),
          draws.normal(Purpose("target"), {dim}, kDouble).expand({count, dim})};
}

TEST(Bridge, StateHasTheMeanAndVarianceOfABridge) {
  constexpr std::int64_t kCount = 200000;
  const auto [source, target] = pair(kCount, 2);
  const at::Tensor noise = Draws(2).normal(rows(kCount), Purpose("noise"), {2}, kDouble);
  for (const double r : {0.1, 0.5, 0.9}) {
    const double s = 0.7;
    const auto point = bridge_point(source, target, at::full({kCount}, r, kDouble), noise, s);
    const at::Tensor mean = r * source[0] + (1 - r) * target[0];
    EXPECT_TRUE(at::allclose(point.x.mean(0), mean, 0, 5e-3)) << r;
    EXPECT_TRUE(at::allclose(point.x.var(0), at::full({2}, s * s * r * (1 - r), kDouble), 2e-2, 0))
        << r;
  }
}

TEST(Bridge, TargetHasTheSameSizeAtEveryTime) {
  constexpr std::int64_t kCount = 100000, kDim = 4;
  const auto [source, target] = pair(kCount, kDim);
  const double rho = (target[0] - source[0]).square().mean().item<double>();
  const at::Tensor noise = Draws(3).normal(rows(kCount), Purpose("noise"), {kDim}, kDouble);
  for (const double r : {0.0, 1e-6, 0.01, 0.3, 0.7, 0.99, 1.0}) {
    for (const double s : {0.0, 0.1, 0.5, 2.0}) {
      const auto point = bridge_point(source, target, at::full({kCount}, r, kDouble), noise, s);
      ASSERT_TRUE(at::isfinite(point.target).all().item<bool>()) << r << " " << s;
      const double size = point.target.square().flatten(1).mean(1).mean().item<double>();
      EXPECT_NEAR(size / rho, 1.0, 2e-2) << "r " << r << ", s " << s;
    }
  }
}

TEST(Bridge, TrueVelocityHasNoLoss) {
  const auto [source, target] = pair(64, 5);
  const at::Tensor time = Draws(4).uniform(rows(64), Purpose("time"), {}, kDouble) * 0.98 + 0.01;
  const at::Tensor noise = Draws(4).normal(rows(64), Purpose("noise"), {5}, kDouble);
  for (const double s : {0.0, 0.5, 1.0}) {
    const auto point = bridge_point(source, target, time, noise, s);
    const at::Tensor velocity = (point.x - target) / time.unsqueeze(1);
    EXPECT_LT(bridge_loss(velocity, point).abs().max().item<double>(), 1e-20) << s;
  }
}

TEST(Bridge, WeightIsTheCorrectedOne) {
  // 1/alpha² with s² inside (the paper's Algorithm S1), not the s = 1 special case.
  const auto [source, target] = pair(1, 5);
  const double rho = (target - source).square().mean().item<double>(), r = 0.2, s = 0.5;
  const auto point =
      bridge_point(source, target, at::full({1}, r, kDouble), at::zeros({1, 5}, kDouble), s);
  const double alpha_squared = 1 + s * s * (1 - r) / (r * rho);
  EXPECT_NEAR(point.weight_b.item<double>(), 1 / std::sqrt(alpha_squared), 1e-12);
}

TEST(Bridge, IdenticalPicturesWeighNothing) {
  const at::Tensor same = at::ones({3, 4}, kDouble);
  const at::Tensor velocity = at::full({3, 4}, 7.0, kDouble);
  for (const double s : {0.0, 0.5}) {
    const auto point = bridge_point(same, same, at::tensor({0.0, 0.5, 1.0}, kDouble),
                                    at::ones({3, 4}, kDouble), s);
    EXPECT_EQ(bridge_loss(velocity, point).abs().max().item<double>(), 0.0) << s;
  }
}

TEST(Bridge, ComputesInFloatUnlessDouble) {
  const at::Tensor half = at::ones({2, 3}, at::kBFloat16);
  const auto point = bridge_point(half, half * 2, at::full({2}, 0.5), at::zeros({2, 3}), 0.5);
  EXPECT_EQ(point.x.scalar_type(), at::kFloat);
  const at::Tensor wide = half.to(at::kDouble);
  EXPECT_EQ(bridge_point(wide, wide, at::full({2}, 0.5), wide, 0.5).target.scalar_type(),
            at::kDouble);
}

TEST(BridgeSampler, GridRunsFromSourceToTarget) {
  const auto times = bridge_times(28, 5.0);
  ASSERT_EQ(times.size(), 29u);
  EXPECT_EQ(times.front(), 1.0);
  EXPECT_EQ(times.back(), 0.0);
  for (std::size_t i = 1; i < times.size(); ++i) EXPECT_LT(times[i], times[i - 1]);
  EXPECT_NEAR(times[27], 0.156, 1e-3);  // the last step at N = 28, shift 5
  EXPECT_NEAR(bridge_times(4, 1.0)[1], 0.75, 1e-15);
}

TEST(BridgeSampler, ExactDriftGivesTheBridgeAndEndsAtTheTarget) {
  constexpr std::int64_t kCount = 100000;
  const auto [source, target] = pair(kCount, 1);
  const double s = 1.0;
  const auto times = bridge_times(20, 1.0);
  double worst_variance = 0;
  const auto drift = [&](const at::Tensor& x, double r) {
    const double expected = s * s * r * (1 - r);
    if (r < 1)
      worst_variance = std::max(worst_variance, std::abs(x.var(0).item<double>() - expected));
    return (x - target) / r;
  };
  const auto noise = [&](std::int64_t step) {
    return Draws(9).normal(rows(kCount), Purpose("n").at(static_cast<std::uint32_t>(step)), {1},
                           kDouble);
  };
  const at::Tensor end =
      sample_bridge(source, drift, noise, s, {.steps = 20, .shift = 1.0, .method = "sde"});
  EXPECT_LT((end - target).abs().max().item<double>(), 1e-9);
  EXPECT_LT(worst_variance, 5e-3);
}

TEST(BridgeSampler, OdeDrawsNoNoiseAndWarnsForNoisyBridges) {
  const auto [source, target] = pair(2, 3);
  const auto no_noise = [](std::int64_t) -> at::Tensor { throw std::logic_error("drew noise"); };
  const auto drift = [&](const at::Tensor& x, double r) { return (x - target) / r; };
  const BridgeSamplerOptions ode{.steps = 5, .shift = 2.0, .method = "ode"};
  const at::Tensor end = sample_bridge(source, drift, no_noise, 0.5, ode);
  EXPECT_LT((end - target).abs().max().item<double>(), 1e-12);
  EXPECT_NE(ode_warning(ode, 0.5), "");
  EXPECT_EQ(ode_warning(ode, 0.0), "");
  EXPECT_EQ(ode_warning({.steps = 5, .shift = 2.0, .method = "sde"}, 0.5), "");
}

}  // namespace
}  // namespace trestle::processes
