#include "base/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace trestle {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double sum_of(const std::vector<double>& values) {
  ExactSum sum;
  for (const double value : values) sum.add(value);
  return sum.value();
}

/// Any finite double, from the smallest subnormal to the largest.
double any_double(std::mt19937_64& random) {
  for (;;) {
    const auto value = std::bit_cast<double>(random());
    if (std::isfinite(value)) return value;
  }
}

TEST(ExactSum, OneNumberIsItself) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const double value = any_double(random);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(sum_of({value})), std::bit_cast<std::uint64_t>(value));
  }
  for (const double value : {0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308})
    EXPECT_EQ(sum_of({value}), value);
}

TEST(ExactSum, TwoNumbersAreWhatTheProcessorRounds) {
  std::mt19937_64 random(2);
  std::uniform_int_distribution<int> distance(-60, 60);
  for (int i = 0; i < 50000; ++i) {
    const double a = std::ldexp(std::ldexp(double(random() >> 11), -53), int(random() % 600) - 300);
    double b = std::ldexp(std::ldexp(double(random() >> 11), -53), distance(random)) * a;
    if (random() % 2) b = -b;
    EXPECT_EQ(sum_of({a, b}), a + b) << std::hexfloat << a << " " << b;
  }
  // Ties go to even, also when they come out of many bits.
  EXPECT_EQ(sum_of({1.0, std::ldexp(1, -53)}), 1.0);
  EXPECT_EQ(sum_of({1.0, std::ldexp(1, -53), std::ldexp(1, -1000)}), 1.0 + std::ldexp(1, -52));
  EXPECT_EQ(sum_of({1.0 + std::ldexp(1, -52), std::ldexp(1, -53)}), 1.0 + std::ldexp(1, -51));
}

TEST(ExactSum, NothingIsLostBetweenExtremes) {
  EXPECT_EQ(sum_of({1e300, 1.0, -1e300}), 1.0);
  EXPECT_EQ(sum_of({1.7976931348623157e308, 1.7976931348623157e308, -1.7976931348623157e308}),
            1.7976931348623157e308);
  EXPECT_EQ(sum_of({1e308, 1e308}), kInfinity);
  EXPECT_EQ(sum_of({-1e308, -1e308}), -kInfinity);
  EXPECT_EQ(sum_of({5e-324, 1e200, 5e-324, -1e200}), 1e-323);
  EXPECT_EQ(sum_of({3.5, -3.5}), 0.0);
}

TEST(ExactSum, OrderAndGroupingDoNotMatter) {
  std::mt19937_64 random(3);
  std::vector<double> values;
  for (int i = 0; i < 3000; ++i) values.push_back(any_double(random));
  for (int i = 0; i < 3000; ++i) values.push_back(-values[i] * (1 + 1e-15));
  std::erase_if(values, [](double v) { return !std::isfinite(v) || std::abs(v) > 1e300; });
  const double whole = sum_of(values);
  for (int round = 0; round < 20; ++round) {
    std::ranges::shuffle(values, random);
    std::vector<ExactSum> parts(1 + random() % 7);
    for (const double value : values) parts[random() % parts.size()].add(value);
    ExactSum all;
    for (const ExactSum& part : parts) all.add(part);
    EXPECT_EQ(all.value(), whole);
  }
}

TEST(ExactSum, ManySmallOnesAreExact) {
  ExactSum sum;
  for (int i = 0; i < 3'000'000; ++i) sum.add(0.1);
  // 0.1 is 3602879701896397 * 2^-55.
  const auto exact = static_cast<__float128>(3602879701896397) * 3'000'000 *
                     static_cast<__float128>(std::ldexp(1.0, -55));
  EXPECT_EQ(sum.value(), static_cast<double>(exact));
}

TEST(ExactSum, NotFiniteNumbersStay) {
  EXPECT_EQ(sum_of({1.0, kInfinity}), kInfinity);
  EXPECT_EQ(sum_of({1.0, -kInfinity, -kInfinity}), -kInfinity);
  EXPECT_TRUE(std::isnan(sum_of({kInfinity, -kInfinity})));
  EXPECT_TRUE(std::isnan(sum_of({1.0, std::nan("")})));
}

}  // namespace
}  // namespace trestle
