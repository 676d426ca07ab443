#include "trainers/plain_step.h"

#include "base/error.h"
#include "base/log.h"
#include "base/torch/finite.h"
#include "dist/flat_group.h"
#include "trainers/optim/gradient_norm.h"
#include "trainers/tally.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace trestle::trainers {
namespace {

/// Undefined, so that the first backward hands its gradient over instead of adding it to zeros.
void forget_gradients(const std::vector<NamedParameter>& leaves) {
  for (const auto& leaf : leaves) leaf.tensor.mutable_grad().reset();
}

/// What no loss reached has the gradient zero.
void define_gradients(const std::vector<NamedParameter>& leaves) {
  for (const auto& leaf : leaves) {
    at::Tensor& gradient = leaf.tensor.mutable_grad();
    if (!gradient.defined())
      gradient = at::zeros_like(leaf.tensor, dist::sum_dtype_of(leaf.tensor.scalar_type()));
    gradient = gradient.contiguous();
  }
}

/// Backward reaches the last layers first, so what is not finite began at the last parameter.
std::string first_not_finite(const std::vector<NamedParameter>& leaves) {
  for (auto leaf = leaves.rbegin(); leaf != leaves.rend(); ++leaf) {
    if (!all_finite(leaf->tensor.grad())) return gradient_problem(leaf->name);
  }
  return "";
}

/// The groups that the objective trains in this step; the others' leaves get no gradient.
std::vector<PlainGroup*> trained(StepParts& parts, const Objective& objective, Step step) {
  std::vector<PlainGroup*> groups;
  for (PlainGroup& plain : parts.groups) {
    const bool is_trained = std::ranges::count(objective.groups, plain.group.name) > 0 &&
                            plain.group.active.contains(step);
    if (is_trained) groups.push_back(&plain);
    for (const auto& leaf : plain.group.parameters) leaf.tensor.requires_grad_(is_trained);
  }
  return groups;
}

void update(PlainGroup& plain, const StepInputs& inputs, double gradient_scale) {
  std::vector<at::Tensor> gradients;
  for (const auto& leaf : plain.group.parameters) gradients.push_back(leaf.tensor.grad());
  const double factor = schedule_factor(plain.schedule, inputs.step, inputs.total_steps);
  plain.optimizer.step(plain.learning_rate * factor, gradient_scale, gradients);
  for (std::size_t i = 0; i < plain.masters.size(); ++i) {
    at::Tensor master = plain.masters[i].tensor.detach();
    at::Tensor leaf = plain.group.parameters[i].tensor.detach();
    if (plain.group.project) plain.group.project(plain.masters[i].name, master);
    if (leaf.data_ptr() != master.data_ptr()) leaf.copy_(master);
  }
  for (Ema& average : plain.averages) average.update();
}

ObjectiveReport step_objective(StepParts& parts, const StepInputs& inputs,
                               const Objective& objective, std::span<PlainGroup* const> groups,
                               MicroBatches& batches, bool& stop) {
  const dist::Communicator& branch = parts.collectives.communicator();
  const dist::Communicator& world = inputs.everyone(branch);
  const StepContext context{
      .step = inputs.step, .draws = inputs.draws, .exchange = inputs.exchange};
  std::vector<NamedParameter> leaves;
  for (const PlainGroup* plain : groups)
    leaves.insert(leaves.end(), plain->group.parameters.begin(), plain->group.parameters.end());

  forget_gradients(leaves);
  ExactSum loss_sum;
  Metrics metrics;
  std::string problem;
  const auto local = [&] {
    for (std::int64_t micro = 0; micro < inputs.micro_steps; ++micro) {
      const data::Batch batch = batches.get(micro);
      inputs.bad_samples.note(batch.replaced);
      if (batch.size() == 0) continue;  // this rank's share was shorter
      const LocalLoss loss =
          local_loss(parts.task, objective, context, inputs.kinds, batch, leaves);
      loss_sum.add(loss.value);
      metrics.add(loss.metrics);
      if (problem.empty()) problem = loss.not_finite;
      if (loss.graph.defined()) torch::autograd::backward({loss.graph}, {});
    }
    define_gradients(leaves);
    if (problem.empty()) problem = first_not_finite(leaves);
  };
  if (parts.task.exchanges())
    local();  // not quite: others may wait inside their losses, so an error ends all at once
  else
    world.agreed(local);

  ExactSum squares;
  for (const auto& leaf : leaves) {
    at::Tensor gradient = leaf.tensor.grad();
    parts.collectives.all_reduce(gradient, dist::ReduceOp::sum, leaf.name).wait();
    add_squares(gradient.flatten(), squares);
  }
  branch.all_reduce(loss_sum.words(), dist::ReduceOp::sum);
  MetricNames names;
  const std::vector<double> numbers = merge_metrics(branch, metrics, names);
  const bool finite = problem.empty() && std::isfinite(loss_sum.value() + squares.value());
  std::array flags{inputs.stop.requested() ? 1.0 : 0.0, inputs.bad_samples.has_news() ? 1.0 : 0.0,
                   finite ? 0.0 : 1.0};
  world.all_reduce(flags, dist::ReduceOp::sum);
  stop = stop || flags[0] > 0;
  for (const auto& line : inputs.bad_samples.merge(world, flags[1] > 0)) log_common_warning(line);

  ObjectiveReport report{.name = objective.name,
                         .loss = loss_sum.value(),
                         .grad_norm = std::sqrt(squares.value()),
                         .not_finite = {},
                         .metrics = names.values(numbers)};
  if (flags[2] > 0) {
    for (const auto& text : world.all_gather_bytes(
             problem.empty() ? "" : not_finite_message(world.rank(), inputs.step, problem))) {
      if (report.not_finite.empty()) report.not_finite = text;
    }
    if (report.not_finite.empty()) {
      report.not_finite = fmt::format("step {}: loss {}, gradient norm {} (the sum over the ranks)",
                                      inputs.step.value, report.loss, report.grad_norm);
    }
  } else {
    const double scale = clip_factor(parts.max_grad_norm, report.grad_norm);
    for (PlainGroup* plain : groups) update(*plain, inputs, scale);
  }
  return report;
}

}  // namespace

StepReport plain_step(StepParts& parts, const StepInputs& inputs) {
  MicroBatches batches(inputs.next_batch, /*keep=*/true);
  StepReport report;
  for (const Objective& objective : parts.objectives) {
    if (!objective.due(inputs.step)) continue;
    const auto groups = trained(parts, objective, inputs.step);
    if (groups.empty()) continue;
    report.objectives.push_back(
        step_objective(parts, inputs, objective, groups, batches, report.stop));
  }
  return report;
}

}  // namespace trestle::trainers
