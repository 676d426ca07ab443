#include "base/torch/draws.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle {
namespace {

const auto kFloat = at::TensorOptions().dtype(at::kFloat);

std::vector<Position> positions(std::initializer_list<std::int64_t> values) {
  std::vector<Position> result;
  for (const auto value : values) result.push_back({value});
  return result;
}

TEST(Draws, RowsDependOnTheirPositionOnly) {
  const Draws draws(7);
  const at::Tensor many =
      draws.normal(positions({5, 9, 1LL << 40}), Purpose("noise"), {3, 7}, kFloat);
  const at::Tensor one = draws.normal(positions({9}), Purpose("noise"), {3, 7}, kFloat);
  EXPECT_TRUE(at::equal(many[1], one[0]));
  EXPECT_FALSE(at::equal(many[0], many[2]));
}

TEST(Draws, SeedsPurposesAndStepsDiffer) {
  const auto at_five = positions({5});
  const auto draw = [&](std::uint64_t seed, Purpose purpose) {
    return Draws(seed).uniform(at_five, purpose, {64}, kFloat);
  };
  const at::Tensor base = draw(1, Purpose("a"));
  EXPECT_FALSE(at::equal(base, draw(2, Purpose("a"))));
  EXPECT_FALSE(at::equal(base, draw(1ULL << 33, Purpose("a"))));
  EXPECT_FALSE(at::equal(base, draw(1, Purpose("b"))));
  EXPECT_FALSE(at::equal(base, draw(1, Purpose("a").at(1))));
  EXPECT_FALSE(at::equal(draw(1, Purpose("a").at(2)), draw(1, Purpose("a").at(1))));
  EXPECT_TRUE(at::equal(base, draw(1, Purpose("a"))));
}

TEST(Draws, MomentsAreThoseOfTheDistribution) {
  const Draws draws(3);
  const auto rows = positions({0, 1, 2, 3});
  const at::Tensor normal = draws.normal(rows, Purpose("n"), {100000}, kFloat).to(at::kDouble);
  EXPECT_NEAR(normal.mean().item<double>(), 0.0, 5e-3);
  EXPECT_NEAR(normal.var().item<double>(), 1.0, 1e-2);
  EXPECT_NEAR(normal.pow(4).mean().item<double>(), 3.0, 6e-2);
  const at::Tensor uniform = draws.uniform(rows, Purpose("u"), {100000}, kFloat).to(at::kDouble);
  EXPECT_NEAR(uniform.mean().item<double>(), 0.5, 2e-3);
  EXPECT_NEAR(uniform.var().item<double>(), 1.0 / 12.0, 1e-3);
  EXPECT_GE(uniform.min().item<double>(), 0.0);
  EXPECT_LT(uniform.max().item<double>(), 1.0);
}

TEST(Draws, SizesThatAreNoMultipleOfFourKeepTheirPrefix) {
  const Draws draws(11);
  const auto at_two = positions({2});
  const at::Tensor seven = draws.normal(at_two, Purpose("n"), {7}, kFloat);
  const at::Tensor eight = draws.normal(at_two, Purpose("n"), {8}, kFloat);
  EXPECT_TRUE(at::equal(seven[0], eight[0].slice(0, 0, 7)));
}

TEST(Draws, DoublesAreTheFloatsWidened) {
  const Draws draws(11);
  const auto at_two = positions({2});
  const at::Tensor narrow = draws.normal(at_two, Purpose("n"), {9}, kFloat);
  const at::Tensor wide = draws.normal(at_two, Purpose("n"), {9}, kFloat.dtype(at::kDouble));
  EXPECT_TRUE(at::equal(narrow.to(at::kDouble), wide));
}

}  // namespace
}  // namespace trestle
