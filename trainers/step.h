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

/// What a rank's main thread is about, one after the other. Of each objective: the first three once
/// a micro batch.
enum class StepPhase { data, forward, backward, reduction, norm, update };

/// Is told where one phase ends and the next begins.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void enter(StepPhase phase) = 0;
};

struct StepInputs {
  Step step;
  const Draws& draws;
  const KindCounts& kinds;
  std::int64_t micro_steps = 1;
  /// This rank's micro batches in order; empty where its share is shorter than another's.
  std::function<data::Batch()> next_batch;
  std::int64_t total_steps = 1;  ///< of the run: what schedules refer to
  data::BadSamples& bad_samples;
  StopToken stop = {};
  StepObserver* observer = nullptr;
  Exchange& exchange = lone_exchange();
  /// Where the task has several branches, of which the gradients' ranks are one.
  const dist::Mesh* mesh = nullptr;

  /// Who agrees on how the step went: all ranks of the run.
  const dist::Communicator& everyone(const dist::Communicator& branch) const {
    return mesh ? mesh->world() : branch;
  }
  void enter(StepPhase phase) const {
    if (observer != nullptr) observer->enter(phase);
  }
};

/// What one objective made of a step.
struct ObjectiveReport {
  std::string name;
  double loss = 0;       ///< over the global batch
  double grad_norm = 0;  ///< global, before clipping
  /// Which number was not finite, on which rank: its groups were not updated then. Empty: they
  /// were.
  std::string not_finite;
  /// Where the task has several branches, what each of them made of it, by branch; loss and
  /// grad_norm above are this branch's.
  struct Numbers {
    double loss = 0, grad_norm = 0;
  };
  std::vector<Numbers> branches = {};
  /// What the task reports of this branch's samples, by name (trainers/task_metrics.h).
  std::map<std::string, double> metrics = {};
};

struct StepReport {
  std::vector<ObjectiveReport> objectives;  ///< those that were due
  bool stop = false;                        ///< some rank was asked to stop; the same on every rank
  /// The first objective's that has one.
  std::string not_finite() const;
};

/// The micro batches of a step, which each objective goes through from the first.
class MicroBatches {
 public:
  /// Keeps them where they are read more than once.
  MicroBatches(std::function<data::Batch()> next, bool keep)
      : next_(std::move(next)), keep_(keep) {}
  /// In order; `index` 0 begins again.
  data::Batch get(std::int64_t index);

 private:
  std::function<data::Batch()> next_;
  bool keep_;
  std::vector<data::Batch> kept_;
};

/// The loss of this rank's samples of a micro batch.
struct LocalLoss {
  /// What to go backward through; undefined where there is nothing. Where the value is not finite,
  /// only what other ranks wait for.
  at::Tensor graph;
  double value = 0;        ///< each term divided by the global count of its kind
  std::string not_finite;  ///< where the value is not: "the loss is nan (... )"
  Metrics metrics = {};
};

/// `parameters` only for the message.
LocalLoss local_loss(Task& task, const Objective& objective, const StepContext& context,
                     const KindCounts& kinds, const data::Batch& batch,
                     const std::vector<NamedParameter>& parameters);

/// The problem of a parameter whose gradient is not finite.
std::string gradient_problem(const std::string& parameter);

/// What is the same in every such message: "rank 1: step 20: <problem>. Lower ...".
std::string not_finite_message(int rank, Step step, const std::string& problem);

/// torch.nn.utils.clip_grad_norm_: what gradients are multiplied with.
double clip_factor(double max_grad_norm, double grad_norm);

}  // namespace trestle::trainers
