#include "trainers/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace trestle::trainers {

void ScheduleOptions::describe(configs::Fields& f) {
  f.field("lr_scheduler", lr_scheduler,
          {.help = "learning rate after the warm-up", .choices = {"constant", "cosine"}});
  f.field("lr_warmup_steps", lr_warmup_steps,
          {.help = "steps of linear warm-up from 0", .unit = "steps", .min = 0});
}

double schedule_factor(const ScheduleOptions& options, Step step, std::int64_t total_steps) {
  const double done = double(step.value), warmup = double(options.lr_warmup_steps);
  if (done < warmup) return done / std::max(1.0, warmup);
  if (options.lr_scheduler == "constant") return 1.0;
  const double progress = (done - warmup) / std::max(1.0, double(total_steps) - warmup);
  return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace trestle::trainers
