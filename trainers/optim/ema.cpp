#include "trainers/optim/ema.h"

#include "trainers/optim/ema_decay.h"

#include <ATen/ATen.h>

namespace trestle::trainers {

void EmaOptions::describe(configs::Fields& f) {
  f.field("enabled", enabled,
          {.help = "keep a moving average and use it for pictures and evaluation"});
  f.field(
      "schedule", schedule,
      {.help = "how the decay of update n rises to ema.decay: ramp is (1 + n) / (10 + n), power "
               "is 1 - (1 + n / inv_gamma)^-power (both as in diffusers' EMAModel)",
       .choices = {"ramp", "power", "constant"}});
  f.field("decay", decay,
          {.help = "where the decay ends; with \"constant\" always",
           .min = 0,
           .below = 1,
           .needs = {"enabled", true}});
  f.field("min_decay", min_decay,
          {.help = "least decay of ramp and power, after the first update",
           .min = 0,
           .below = 1,
           .needs = {"enabled", true}});
  f.field("inv_gamma", inv_gamma,
          {.help = "of schedule \"power\"", .above = 0, .needs = {"schedule", "power"}});
  f.field("power", power,
          {.help = "of schedule \"power\"", .above = 0, .needs = {"schedule", "power"}});
}

double EmaOptions::decay_after(std::int64_t updates) const {
  const EmaSchedule kind = schedule == "constant" ? EmaSchedule::constant
                           : schedule == "power"  ? EmaSchedule::power
                                                  : EmaSchedule::ramp;
  return ema_decay({.schedule = kind,
                    .decay = decay,
                    .min_decay = min_decay,
                    .inv_gamma = inv_gamma,
                    .power = power},
                   updates);
}

Ema::Ema(std::vector<models::nn::NamedParameter> parameters, const EmaOptions& options)
    : options_(options) {
  if (!options_.enabled) return;
  parameters_ = std::move(parameters);
  for (const auto& parameter : parameters_) average_.push_back(parameter.tensor.detach().clone());
}

void Ema::update() {
  if (!options_.enabled) return;
  const double decay = options_.decay_after(count_++);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    average_[i].lerp_(parameters_[i].tensor.detach(), 1.0 - decay);
  }
}

void Ema::state(checkpoint::Scope& counts, checkpoint::Scope& planes) {
  if (!options_.enabled) return;
  counts.number("count", count_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    planes.tensor(parameters_[i].name, average_[i]);
  }
}

}  // namespace trestle::trainers
