// The seam between the engine that shards the training state and the optimizers: a Shard is what
// this rank holds of a bucket, an Optimizer brings it one step further in one pass.
//
//   StepScalars scalars{.learning_rate = 1e-4, .gradient_scale = clip, .count = ++count};
//   const auto sums = global_sums(optimizer, shards, scalars, all_reduce);   // AdamW: none
//   scalars.sums = sums;
//   for (const Shard& shard : shards) optimizer.step(shard, scalars);
//
// LOCAL, but for global_sums. THREADS: calls on one optimizer come from one thread at a time (each
// may use torch's threads inside). STREAM: on a GPU, work is queued on the current stream.
// An optimizer holds no state of the run: its planes live in the shards, the count with the caller.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace trestle::trainers {

/// A moving average of the master weights: average = decay · average + (1 - decay) · master.
struct AveragePlane {
  at::Tensor values;
  double decay;  ///< of this step (trainers/optim/ema_decay.h)
};

/// A contiguous piece of a bucket. Flat, contiguous tensors of one length on one device, normally
/// slices of larger buffers. All have the master's dtype (fp32 or fp64), except the parameter.
struct Shard {
  at::Tensor master;
  at::Tensor gradient;
  std::vector<at::Tensor> state;  ///< one for each of Optimizer::state_names(); zeros at first
  std::vector<AveragePlane> averages;
  at::Tensor parameter;  ///< the model's copy, written: bf16 (fp32 master) or the master's dtype;
                         ///< undefined where the master itself is what the model computes with
};

struct StepScalars {
  double learning_rate = 0;
  double gradient_scale = 1;  ///< the clipping factor; gradients are read times this
  std::int64_t count = 0;     ///< steps of this optimizer, with this one: 1 at first
  bool zero_gradient = false;
  std::span<const double> sums;  ///< over all ranks and shards, of the rounds so far, in order
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// The planes of Shard::state, named as checkpoints name them ("exp_avg").
  virtual std::span<const std::string_view> state_names() const = 0;

  /// How many times the optimizer needs sums over all shards of all ranks before it can step.
  virtual int rounds() const { return 0; }
  /// How many sums this round (from 0) has.
  virtual std::size_t sums_of(int round) const;
  /// Adds what these shards contribute to the round. Changes nothing else.
  virtual void contribute(int round, std::span<const Shard> shards, const StepScalars& scalars,
                          std::span<double> sums) const;

  /// One pass over the shard: new state, master, averages and parameter. An element's result
  /// depends on nothing but that element and the scalars, so shards may be cut anywhere.
  virtual void step(const Shard& shard, const StepScalars& scalars) const = 0;
};

/// COLLECTIVE, as far as `all_reduce` is: it sums in place over the ranks, once a round. Returns
/// the sums of all rounds, what StepScalars::sums wants.
std::vector<double> global_sums(const Optimizer& optimizer, std::span<const Shard> shards,
                                StepScalars scalars,
                                const std::function<void(std::span<double>)>& all_reduce);

/// Asserts what Shard promises, for an optimizer with this many state planes.
void check_shard(const Shard& shard, std::size_t state_planes);

}  // namespace trestle::trainers
