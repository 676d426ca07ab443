#include "trainers/plain_step.h"

#include "base/error.h"
#include "base/log.h"
#include "base/torch/finite.h"
#include "dist/flat_group.h"
#include "trainers/optim/gradient_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>

namespace trestle::trainers {
namespace {

/// Undefined, so that the first backward hands its gradient over instead of adding it to zeros.
void forget_gradients(const std::vector<NamedParameter>& parameters) {
  for (const auto& parameter : parameters) parameter.tensor.mutable_grad().reset();
}

/// What no loss reached has the gradient zero.
void define_gradients(const std::vector<NamedParameter>& parameters) {
  for (const auto& parameter : parameters) {
    at::Tensor& gradient = parameter.tensor.mutable_grad();
    if (!gradient.defined())
      gradient =
          at::zeros_like(parameter.tensor, dist::sum_dtype_of(parameter.tensor.scalar_type()));
    gradient = gradient.contiguous();
  }
}

/// Backward reaches the last layers first, so what is not finite began at the last parameter.
std::string first_not_finite(const std::vector<NamedParameter>& parameters) {
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend(); ++parameter) {
    if (!all_finite(parameter->tensor.grad()))
      return fmt::format("the gradient of {} is not finite (though the loss is)", parameter->name);
  }
  return "";
}

}  // namespace

StepReport plain_step(StepParts& parts, const StepInputs& inputs) {
  const dist::Communicator& world = parts.collectives.communicator();
  const StepContext context{.step = inputs.step, .draws = inputs.draws};

  forget_gradients(parts.parameters);
  ExactSum loss_sum;
  std::string problem;
  world.agreed([&] {
    for (std::int64_t micro = 0; micro < inputs.micro_steps; ++micro) {
      const data::Batch batch = inputs.next_batch();
      inputs.bad_samples.note(batch.replaced);
      if (batch.size() == 0) continue;  // this rank's share was shorter
      const LocalLoss loss =
          local_loss(parts.task, parts.objective, context, inputs.kinds, batch, parts.parameters);
      loss_sum.add(loss.value);
      if (!loss.not_finite.empty() && problem.empty()) problem = loss.not_finite;
      if (loss.not_finite.empty() && loss.graph.defined())
        torch::autograd::backward({loss.graph}, {});
    }
    define_gradients(parts.parameters);
    if (problem.empty()) problem = first_not_finite(parts.parameters);
  });

  ExactSum squares;
  for (const auto& parameter : parts.parameters) {
    at::Tensor gradient = parameter.tensor.grad();
    parts.collectives.all_reduce(gradient, dist::ReduceOp::sum, parameter.name).wait();
    add_squares(gradient.flatten(), squares);
  }
  world.all_reduce(loss_sum.words(), dist::ReduceOp::sum);
  std::array flags{inputs.stop.requested() ? 1.0 : 0.0, inputs.bad_samples.has_news() ? 1.0 : 0.0,
                   problem.empty() ? 0.0 : 1.0};
  world.all_reduce(flags, dist::ReduceOp::sum);
  for (const auto& line : inputs.bad_samples.merge(world, flags[1] > 0)) log_common_warning(line);

  StepReport report{.loss = loss_sum.value(),
                    .grad_norm = std::sqrt(squares.value()),
                    .stop = flags[0] > 0,
                    .not_finite = {}};
  if (flags[2] > 0) {
    for (const auto& text : world.all_gather_bytes(
             problem.empty() ? "" : not_finite_message(world.rank(), inputs.step, problem))) {
      if (report.not_finite.empty()) report.not_finite = text;
    }
  } else if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    report.not_finite = fmt::format("step {}: loss {}, gradient norm {} (the sum over the ranks)",
                                    inputs.step.value, report.loss, report.grad_norm);
  }
  if (!report.not_finite.empty()) return report;

  std::vector<at::Tensor> gradients;
  for (const auto& parameter : parts.parameters) gradients.push_back(parameter.tensor.grad());
  parts.optimizer.step(parts.learning_rate * inputs.learning_rate_factor,
                       clip_factor(parts.max_grad_norm, report.grad_norm), gradients);
  parts.ema.update();
  return report;
}

}  // namespace trestle::trainers
