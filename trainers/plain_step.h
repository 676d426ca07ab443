// One training step, synchronous and unsharded, as short as it can be: the readable definition that
// everything fast is compared with.
//
// COLLECTIVE: every rank calls it for the same step. THREADS: one. STREAM: the current one.
#pragma once
#include "base/stop.h"
#include "data/bad_samples.h"
#include "data/sampler.h"
#include "dist/collectives.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/task.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace trestle::trainers {

struct StepReport {
  double loss = 0;       ///< over the global batch
  double grad_norm = 0;  ///< global, before clipping
  bool stop = false;     ///< some rank was asked to stop; the same on every rank
};

/// What a step needs and changes. References outlive the calls.
struct StepParts {
  Task& task;
  const Objective& objective;
  std::vector<NamedParameter> parameters;
  dist::Collectives& collectives;
  AdamW& optimizer;
  Ema& ema;
  double max_grad_norm;  ///< 0: no clipping
  /// Which parameters are reduced together; plan_buckets() makes it.
  std::vector<std::vector<std::size_t>> buckets;
  data::BadSamples& bad_samples;
  StopToken stop;
};

/// Number of samples of each kind in the global batch of this step.
using KindCounts = std::map<std::string, std::int64_t, std::less<>>;
KindCounts count_kinds(const data::Dataset& dataset, const data::Sampler& sampler,
                       const std::vector<Position>& global_batch);

/// Forward and backward over this rank's micro batches, sum of gradients over all ranks, clipping,
/// optimizer, EMA. `next_batch` yields the micro batches in order. An error on any rank is thrown
/// on every rank before parameters change; a loss or gradient that is not finite is Error(numbers)
/// and names the rank, the step and the first such tensor. Bad samples of the batches are said, and
/// more than data.max_bad of them in the run is Error(data).
StepReport plain_step(StepParts& parts, Step step, const Draws& draws, const KindCounts& kinds,
                      std::int64_t micro_steps, const std::function<data::Batch()>& next_batch,
                      double learning_rate);

/// How a list of parameters falls into buckets of about `bucket_bytes`, in reverse order (backward
/// finishes the last layers first); each at least one parameter.
std::vector<std::vector<std::size_t>> plan_buckets(const std::vector<NamedParameter>& parameters,
                                                   std::int64_t bucket_bytes);

}  // namespace trestle::trainers
