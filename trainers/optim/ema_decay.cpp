#include "trainers/optim/ema_decay.h"

#include <algorithm>
#include <cmath>

namespace trestle::trainers {

double ema_decay(const EmaDecayOptions& options, std::int64_t updates) {
  if (options.schedule == EmaSchedule::constant) return options.decay;
  if (updates == 0) return 0.0;
  const double n = double(updates);
  const double risen = options.schedule == EmaSchedule::ramp
                           ? (1 + n) / (10 + n)
                           : 1 - std::pow(1 + n / options.inv_gamma, -options.power);
  return std::max(std::min(risen, options.decay), options.min_decay);
}

}  // namespace trestle::trainers
