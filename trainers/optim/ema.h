// Exponential moving average of the parameters. By default with diffusers' ramp: after n updates
// the decay is min(decay, (1 + n) / (10 + n)), so early averages are not ruled by the initial
// weights. LOCAL. THREADS: one.
#pragma once
#include "checkpoint/state_tree.h"
#include "configs/describe.h"
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::trainers {

struct EmaOptions {  // [ema]
  bool enabled = true;
  std::string schedule = "ramp";
  double decay = 0.9999;
  double min_decay = 0;
  double inv_gamma = 1;
  double power = 2.0 / 3;

  /// Of the update that comes after `updates` others.
  double decay_after(std::int64_t updates) const;
  void describe(configs::Fields& fields);
};

class Ema {
 public:
  /// Starts as a copy of the parameters. Disabled: every call does nothing.
  Ema(std::vector<models::nn::NamedParameter> parameters, const EmaOptions& options);

  void update();
  /// The count to `counts`, the averages under their parameters' names to `planes`.
  void state(checkpoint::Scope& counts, checkpoint::Scope& planes);
  /// By parameter; empty where none are kept.
  const std::vector<at::Tensor>& averages() const { return average_; }

 private:
  std::vector<models::nn::NamedParameter> parameters_;
  EmaOptions options_;
  std::vector<at::Tensor> average_;
  std::int64_t count_ = 0;
};

}  // namespace trestle::trainers
