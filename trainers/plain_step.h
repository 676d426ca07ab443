// One training step, synchronous and unsharded, as short as it can be: the readable definition that
// everything fast is compared with (trainers/paranoid.h runs it beside the engine).
//
// COLLECTIVE: every rank calls it for the same step. THREADS: one. STREAM: the current one.
#pragma once
#include "dist/collectives.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/optim/schedule.h"
#include "trainers/step.h"
#include "trainers/task.h"

#include <span>
#include <vector>

namespace trestle::trainers {

/// A parameter group with its optimizer.
struct PlainGroup {
  ParameterGroup group;
  std::vector<NamedParameter> masters;  ///< what the optimizer steps; the leaves themselves, or
                                        ///< copies in fp32 or fp64 that the leaves follow
  AdamW optimizer;                      ///< over the masters
  std::vector<Ema> averages;            ///< of the masters
  double learning_rate;
  ScheduleOptions schedule;
};

/// What a step needs and changes. References outlive the calls.
struct StepParts {
  Task& task;
  std::span<const Objective> objectives;
  std::span<PlainGroup> groups;
  dist::Collectives& collectives;
  double max_grad_norm;  ///< of each objective; 0: no clipping
};

/// For each objective that is due: forward and backward over this rank's micro batches, sum of
/// gradients over all ranks, clipping, optimizer, EMA. An error on any rank is thrown on every rank
/// before parameters change. Where the loss or a gradient is not finite nothing is updated, and the
/// report names the rank, the step and the first such tensor. Afterwards the .grad of each leaf
/// that was trained holds the sum over the ranks.
StepReport plain_step(StepParts& parts, const StepInputs& inputs);

}  // namespace trestle::trainers
