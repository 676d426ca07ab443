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
  void state(checkpoint::Scope& scope);

  /// While one lives, the parameters hold the averages; then their own values again.
  class Applied {
   public:
    explicit Applied(Ema& ema) : ema_(ema) { ema_.swap(); }
    ~Applied() { ema_.swap(); }
    Applied(const Applied&) = delete;
    Applied& operator=(const Applied&) = delete;

   private:
    Ema& ema_;
  };

 private:
  void swap();

  std::vector<models::nn::NamedParameter> parameters_;
  EmaOptions options_;
  std::vector<at::Tensor> average_;
  std::int64_t count_ = 0;
};

}  // namespace trestle::trainers
