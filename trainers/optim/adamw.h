// AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019), equal to
// torch.optim.AdamW. State and arithmetic in the parameters' dtype (fp32 or fp64).
// LOCAL: every rank that holds the same gradients makes the same step. THREADS: one.
#pragma once
#include "checkpoint/state_tree.h"
#include "configs/describe.h"
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <span>
#include <vector>

namespace trestle::trainers {

struct AdamWOptions {  // part of [optim]
  double learning_rate = 1e-4;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double weight_decay = 1e-2;
  void describe(configs::Fields& fields);
};

class AdamW {
 public:
  AdamW(std::vector<models::nn::NamedParameter> parameters, const AdamWOptions& options);

  /// One step with this learning rate and these gradients, by parameter, times `gradient_scale`.
  void step(double learning_rate, double gradient_scale, std::span<const at::Tensor> gradients);

  /// Steps taken so far.
  std::int64_t count() const { return count_; }
  /// The count to `counts`, the planes under their parameters' names to `planes`.
  void state(checkpoint::Scope& counts, checkpoint::Scope& planes);

 private:
  std::vector<models::nn::NamedParameter> parameters_;
  AdamWOptions options_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  std::int64_t count_ = 0;
};

}  // namespace trestle::trainers
