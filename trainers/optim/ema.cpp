#include "trainers/optim/ema.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle::trainers {

void EmaOptions::describe(configs::Fields& f) {
  f.field("enabled", enabled,
          {.help = "keep a moving average and use it for pictures and evaluation"});
  f.field("decay", decay,
          {.help = "decay the ramp min(decay, (1 + n) / (10 + n)) ends at",
           .min = 0,
           .below = 1,
           .needs = {"enabled", true}});
}

Ema::Ema(std::vector<models::nn::NamedParameter> parameters, const EmaOptions& options)
    : options_(options) {
  if (!options_.enabled) return;
  parameters_ = std::move(parameters);
  for (const auto& parameter : parameters_) average_.push_back(parameter.tensor.detach().clone());
}

void Ema::update() {
  if (!options_.enabled) return;
  // diffusers counts the same way: its first update copies the parameters.
  const double n = double(count_++);
  const double decay = n == 0 ? 0.0 : std::min(options_.decay, (1 + n) / (10 + n));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    average_[i].lerp_(parameters_[i].tensor.detach(), 1.0 - decay);
  }
}

void Ema::swap() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor value = parameters_[i].tensor.detach();
    const at::Tensor own = value.clone();
    value.copy_(average_[i]);
    average_[i].copy_(own);
  }
}

void Ema::state(checkpoint::Scope& scope) {
  if (!options_.enabled) return;
  scope.number("count", count_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    scope.tensor(parameters_[i].name, average_[i]);
  }
}

}  // namespace trestle::trainers
