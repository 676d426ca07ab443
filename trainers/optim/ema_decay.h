// How strongly a moving average holds on to its past, update by update. ramp and power are those of
// diffusers' EMAModel (without and with use_ema_warmup): their first update copies the weights.
// LOCAL, a pure function.
#pragma once
#include <cstdint>

namespace trestle::trainers {

enum class EmaSchedule {
  constant,  ///< decay
  ramp,      ///< (1 + n) / (10 + n)
  power,     ///< 1 - (1 + n / inv_gamma)^-power
};

struct EmaDecayOptions {
  EmaSchedule schedule = EmaSchedule::ramp;
  double decay = 0.9999;   ///< where ramp and power end
  double min_decay = 0;    ///< of ramp and power, after the first update
  double inv_gamma = 1;    ///< power only
  double power = 2.0 / 3;  ///< power only
};

/// The decay of the update that comes after `updates` others.
double ema_decay(const EmaDecayOptions& options, std::int64_t updates);

}  // namespace trestle::trainers
