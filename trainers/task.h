// What a trainer is made of: a Task says what is trained, on what, and with which loss. It knows
// nothing of ranks, optimizers, checkpoints or the command line; the Trainer drives it.
//
// A new trainer is one folder in trainers/ with a task.cpp that defines
//   namespace trestle::trainers::<folder> { const TaskKind& task_kind(); }
// The build writes the registry from the folders that exist.
//
// LOCAL, all of it. THREADS: a Task is used by one thread. STREAM: the current one.
#pragma once
#include "base/ids.h"
#include "base/stop.h"
#include "base/torch/draws.h"
#include "checkpoint/state_tree.h"
#include "configs/recipe.h"
#include "configs/schema.h"
#include "data/dataset.h"
#include "formats/picture.h"
#include "models/nn/parameters.h"
#include "trainers/exchange.h"
#include "trainers/job.h"
#include "trainers/task_metrics.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::trainers {

using models::nn::NamedParameter;

/// Steps [begin, end).
struct StepRange {
  std::int64_t begin = 0, end = std::numeric_limits<std::int64_t>::max();
  bool contains(Step step) const { return begin <= step.value && step.value < end; }
};

/// Parameters that live one life. What the recipe says in [optim.<name>] is theirs; the rest is as
/// in [optim] (the task's describe() calls describe_group()).
struct ParameterGroup {
  std::string name;
  std::vector<NamedParameter> parameters;  ///< export name and leaf, in forward order
  StepRange active = {};                   ///< outside it: no gradient, no decay, no step
  bool ema = true;
  /// Changes a parameter's master in place, whole, after each step. Such a group is not sharded.
  std::function<void(const std::string& name, at::Tensor& master)> project = {};
};

/// A loss and the groups it trains, which no other objective trains. Objectives that are due in a
/// step run in the order of their declaration, on the same batch: loss, backward, update.
struct Objective {
  std::string name;
  std::vector<std::string> groups;
  std::int64_t first = 0;  ///< step
  std::int64_t every = 1;
  bool due(Step step) const { return step.value >= first && (step.value - first) % every == 0; }
};

/// One part of the loss. The trainer divides by the number of samples of its kind in the GLOBAL
/// batch, so a term's weight in the gradient does not depend on how the batch was split.
struct LossTerm {
  std::string name;
  at::Tensor per_sample;  ///< [n], differentiable: a value for each sample of the kind here
  std::string kind = "all";
};

struct LossReport {
  std::vector<LossTerm> terms;
  Metrics metrics = {};
};

/// Weights that the loss uses and no step changes: a codec, a teacher.
struct FrozenPart {
  std::string name;
  std::vector<NamedParameter> parameters;
};

struct StepContext {
  Step step;
  const Draws& draws;  ///< of the run; keyed by the batch's positions
  Exchange& exchange = lone_exchange();
};

enum class Split { train, heldout };

/// Which held-out samples to show.
struct SampleRequest {
  std::vector<data::SampleId> ids;
  StopToken stop;  ///< to be polled (check()) between the steps of a sampler
};

class Task {
 public:
  virtual ~Task() = default;

  /// Ranks work in so many branches (dist/mesh.h), each with parameters and a loss of its own, on
  /// the same samples. All branches have the same objectives, due in the same steps. Names of
  /// parameters may be the same: checkpoints keep the branches apart.
  virtual int branches() const { return 1; }
  /// Where there are several: this rank works in that one. Called once, before all below.
  virtual void enter_branch(int /*branch*/) {}
  /// Whether the loss calls StepContext::exchange.
  virtual bool exchanges() const { return branches() > 1; }

  virtual std::vector<ParameterGroup> groups() = 0;
  /// Every rank holds them whole; a memory plan counts them.
  virtual std::vector<FrozenPart> frozen() { return {}; }
  /// Default: one objective over all groups.
  virtual std::vector<Objective> objectives();
  /// Opens a data set; throws Error(data).
  virtual const data::Dataset& dataset(Split split) = 0;
  virtual LossReport loss(const Objective& objective, const data::Batch& batch,
                          const StepContext& context) = 0;
  /// Buffers and statistics that decide the future, besides parameters; one visitor saves and
  /// loads.
  virtual void state(checkpoint::Scope&) {}
  /// One picture a request id (for a paired task: source | model | target, side by side). The
  /// parameters are those to be shown, the EMA's if the run keeps one.
  virtual std::vector<formats::Picture> sample(const SampleRequest& request,
                                               const Draws& draws) = 0;
  /// Rank-parallel work after training, such as the held-out evaluation.
  virtual std::vector<std::unique_ptr<Job>> jobs() { return {}; }
};

/// On the meta device a model has names and shapes and no memory: enough to validate.
enum class Materialise { meta, weights };

struct TaskKind {
  std::string_view name;
  std::string_view summary;
  /// Adds the task's sections ([task], [model], [data] ...) to the schema.
  void (*describe)(configs::Schema& schema);
  std::unique_ptr<Task> (*make)(const configs::Recipe& recipe, Materialise materialise);
};

/// All kinds that this program was built with, in order of their folders' names.
std::span<const TaskKind* const> task_kinds();

/// The kind that recipe's run.task names; unknown: Error(usage) with the nearest name.
const TaskKind& task_kind_of(const configs::Recipe& recipe);

/// The recipe's task, in one of its branches.
std::unique_ptr<Task> make_task(const configs::Recipe& recipe, Materialise materialise,
                                int branch = 0);

}  // namespace trestle::trainers
