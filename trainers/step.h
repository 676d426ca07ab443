// What a training step is told and what it reports; and the loss of one micro batch. plain_step and
// Engine share it.
//
// LOCAL. THREADS: one. STREAM: the current one.
#pragma once
#include "base/stop.h"
#include "data/bad_samples.h"
#include "data/sampler.h"
#include "trainers/task.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace trestle::trainers {

/// Number of samples of each kind in the global batch of this step.
using KindCounts = std::map<std::string, std::int64_t, std::less<>>;
KindCounts count_kinds(const data::Dataset& dataset, const data::Sampler& sampler,
                       const std::vector<Position>& global_batch);

struct StepInputs {
  Step step;
  const Draws& draws;
  const KindCounts& kinds;
  std::int64_t micro_steps = 1;
  /// This rank's micro batches in order; empty where its share is shorter than another's.
  std::function<data::Batch()> next_batch;
  double learning_rate_factor = 1;  ///< of the schedule
  data::BadSamples& bad_samples;
  StopToken stop = {};
};

struct StepReport {
  double loss = 0;       ///< over the global batch
  double grad_norm = 0;  ///< global, before clipping
  bool stop = false;     ///< some rank was asked to stop; the same on every rank
  /// Which number was not finite, on which rank: nothing was updated then. Empty: the step is made.
  std::string not_finite;
};

/// The loss of this rank's samples of a micro batch.
struct LocalLoss {
  at::Tensor graph;        ///< undefined where there is nothing to go backward through
  double value = 0;        ///< each term divided by the global count of its kind
  std::string not_finite;  ///< where the value is not: "the loss is nan (... )"
};

/// `parameters` only for the message.
LocalLoss local_loss(Task& task, const Objective& objective, const StepContext& context,
                     const KindCounts& kinds, const data::Batch& batch,
                     const std::vector<NamedParameter>& parameters);

/// What is the same in every such message: "rank 1: step 20: <problem>. Lower ...".
std::string not_finite_message(int rank, Step step, const std::string& problem);

/// torch.nn.utils.clip_grad_norm_: what gradients are multiplied with.
double clip_factor(double max_grad_norm, double grad_norm);

}  // namespace trestle::trainers
