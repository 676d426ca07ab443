// The decays of moving averages against numbers that diffusers 0.42.1 gave.
#include "trainers/optim/ema_decay.h"

#include <gtest/gtest.h>

#include <array>

namespace trestle::trainers {
namespace {

// EMAModel(..., use_ema_warmup=<power>).get_decay(n + 1) for each n, which it counts from 1.
constexpr std::array<std::int64_t, 6> kUpdates = {0, 1, 2, 10, 1000, 1000000};
struct Case {
  EmaDecayOptions options;
  std::array<double, 6> expected;
};
const Case kCases[] = {
    {{.schedule = EmaSchedule::ramp, .decay = 0.9999},
     {0.0, 0.18181818181818182, 0.25, 0.55, 0.9910891089108911, 0.9999}},
    {{.schedule = EmaSchedule::ramp, .decay = 0.5},
     {0.0, 0.18181818181818182, 0.25, 0.5, 0.5, 0.5}},
    {{.schedule = EmaSchedule::ramp, .decay = 0.9999, .min_decay = 0.2},
     {0.0, 0.2, 0.25, 0.55, 0.9910891089108911, 0.9999}},
    {{.schedule = EmaSchedule::power, .decay = 0.9999},
     {0.0, 0.3700394750525634, 0.5192501432308638, 0.7978199917664258, 0.9900066611160449, 0.9999}},
    {{.schedule = EmaSchedule::power, .decay = 0.999, .inv_gamma = 3.0, .power = 0.75},
     {0.0, 0.19407255113234356, 0.3182683801195003, 0.6670466209297599, 0.9872101561787466, 0.999}},
    {{.schedule = EmaSchedule::power, .decay = 0.9, .min_decay = 0.6, .power = 1.0},
     {0.0, 0.6, 0.6666666666666667, 0.9, 0.9, 0.9}},
};

TEST(EmaDecay, RisesAsDiffusersDecaysDo) {
  for (const Case& one : kCases) {
    for (std::size_t i = 0; i < kUpdates.size(); ++i) {
      EXPECT_NEAR(ema_decay(one.options, kUpdates[i]), one.expected[i], 1e-15)
          << &one - kCases << " after " << kUpdates[i];
    }
  }
}

TEST(EmaDecay, IsConstantFromTheFirstUpdateIfAsked) {
  for (const std::int64_t n : kUpdates)
    EXPECT_EQ(ema_decay({.schedule = EmaSchedule::constant, .decay = 0.7, .min_decay = 0.9}, n),
              0.7);
}

}  // namespace
}  // namespace trestle::trainers
