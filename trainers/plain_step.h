// One training step, synchronous and unsharded, as short as it can be: the readable definition that
// everything fast is compared with (trainers/paranoid.h runs it beside the engine).
//
// COLLECTIVE: every rank calls it for the same step. THREADS: one. STREAM: the current one.
#pragma once
#include "dist/collectives.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/step.h"
#include "trainers/task.h"

#include <vector>

namespace trestle::trainers {

/// What a step needs and changes. References outlive the calls.
struct StepParts {
  Task& task;
  const Objective& objective;
  std::vector<NamedParameter> parameters;  ///< the leaves
  dist::Collectives& collectives;
  AdamW& optimizer;  ///< steps what it was made of: the leaves, or masters in the same order
  Ema& ema;
  double learning_rate;
  double max_grad_norm;  ///< 0: no clipping
};

/// Forward and backward over this rank's micro batches, sum of gradients over all ranks, clipping,
/// optimizer, EMA. An error on any rank is thrown on every rank before parameters change. Where the
/// loss or a gradient is not finite nothing is updated, and the report names the rank, the step and
/// the first such tensor. Afterwards each leaf's .grad holds the sum over the ranks.
StepReport plain_step(StepParts& parts, const StepInputs& inputs);

}  // namespace trestle::trainers
