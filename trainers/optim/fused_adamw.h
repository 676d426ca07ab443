// AdamW over shards: one pass that reads gradient, master, moments and averages and writes them all
// and the model's copy of the parameter. The arithmetic is that of AdamW and Ema (adamw.h, ema.h),
// which have the same bits, up to what fused_adamw_cpu.h says of FMA.
// LOCAL. THREADS: one at a time; a step uses torch's threads. CPU only so far.
#pragma once
#include "trainers/optim/adamw.h"
#include "trainers/optim/shard_optimizer.h"

namespace trestle::trainers {

class FusedAdamW : public Optimizer {
 public:
  /// Uses the betas, epsilon and weight decay; the learning rate comes with each step.
  explicit FusedAdamW(const AdamWOptions& options) : options_(options) {}

  std::span<const std::string_view> state_names() const override;
  void step(const Shard& shard, const StepScalars& scalars) const override;

 private:
  AdamWOptions options_;
};

}  // namespace trestle::trainers
