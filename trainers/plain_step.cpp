#include "trainers/plain_step.h"

#include "base/error.h"
#include "base/log.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <cmath>

namespace trestle::trainers {
namespace {

int rank_of(const StepParts& parts) { return parts.collectives.communicator().rank(); }

bool all_finite(const at::Tensor& tensor) {
  return !tensor.is_floating_point() || at::isfinite(tensor).all().item<bool>();
}

/// The first tensor on the way through this micro batch that is not finite, named for people.
std::string first_not_finite(const StepParts& parts, const data::Batch& batch,
                             const LossReport& report) {
  for (const auto& [name, tensor] : batch.tensors) {
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      if (!all_finite(tensor[i])) return fmt::format("{} of sample {}", name, batch.ids[i]);
    }
  }
  for (const auto& parameter : parts.parameters) {
    if (!all_finite(parameter.tensor)) return "parameter " + parameter.name;
  }
  for (const LossTerm& term : report.terms) {
    if (!all_finite(term.per_sample)) return "loss term " + term.name;
  }
  return "the sum of the loss";
}

/// Backward reaches the last layers first, so what is not finite began at the last parameter.
void require_finite_gradients(const StepParts& parts, Step step) {
  for (auto parameter = parts.parameters.rbegin(); parameter != parts.parameters.rend();
       ++parameter) {
    TRESTLE_REQUIRE_AS(
        numbers, all_finite(parameter->tensor.grad()),
        "rank {}: step {}: the gradient of {} is not finite (though the loss is). Lower "
        "optim.learning_rate, or look at the data of this step.",
        rank_of(parts), step.value, parameter->name);
  }
}

/// Loss of this rank's samples, each term divided by the global count of its kind.
double forward_backward(StepParts& parts, const StepContext& context, const KindCounts& kinds,
                        const data::Batch& batch) {
  const LossReport report = parts.task.loss(parts.objective, batch, context);
  at::Tensor loss;
  for (const LossTerm& term : report.terms) {
    TRESTLE_ASSERT(term.per_sample.dim() == 1, "term {} has {} axes, not one value a sample",
                   term.name, term.per_sample.dim());
    const auto count = kinds.find(term.kind);
    // The whole global batch lacks this kind: nothing to divide, and nothing to divide by.
    if (count == kinds.end() && term.per_sample.numel() == 0) continue;
    TRESTLE_ASSERT(count != kinds.end(), "term {} counts unknown kind \"{}\"", term.name,
                   term.kind);
    const at::Tensor share = term.per_sample.sum() / double(count->second);
    loss = loss.defined() ? loss + share : share;
  }
  if (!loss.defined()) return 0;
  const double value = loss.item<double>();
  TRESTLE_REQUIRE_AS(
      numbers, std::isfinite(value),
      "rank {}: step {}: the loss is {} (the first tensor that is not finite: {}). Lower "
      "optim.learning_rate, or look at the data of this step.",
      rank_of(parts), context.step.value, value, first_not_finite(parts, batch, report));
  torch::autograd::backward({loss}, {});
  return value;
}

/// Undefined, so that the first backward hands its gradient over instead of adding it to zeros.
void forget_gradients(const std::vector<NamedParameter>& parameters) {
  for (const auto& parameter : parameters) parameter.tensor.mutable_grad().reset();
}

/// What no loss reached has the gradient zero.
void define_gradients(const std::vector<NamedParameter>& parameters) {
  for (const auto& parameter : parameters) {
    at::Tensor& gradient = parameter.tensor.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(parameter.tensor);
  }
}

/// Sums every gradient over the ranks, bucket by bucket.
void reduce_gradients(const StepParts& parts) {
  if (parts.collectives.communicator().size() == 1) return;
  for (const auto& bucket : parts.buckets) {
    std::vector<at::Tensor> flattened;
    for (const std::size_t i : bucket)
      flattened.push_back(parts.parameters[i].tensor.grad().flatten());
    at::Tensor flat = at::cat(flattened);
    parts.collectives.all_reduce(flat, dist::ReduceOp::sum).wait();
    std::int64_t offset = 0;
    for (const std::size_t i : bucket) {
      at::Tensor gradient = parts.parameters[i].tensor.grad();
      gradient.copy_(flat.slice(0, offset, offset + gradient.numel()).view_as(gradient));
      offset += gradient.numel();
    }
  }
}

/// In fp64, tensor by tensor, so that it is the same whatever the buckets are.
double global_norm(const std::vector<NamedParameter>& parameters) {
  double sum = 0;
  for (const auto& parameter : parameters) {
    const at::Tensor norm =
        at::linalg_vector_norm(parameter.tensor.grad(), 2, {}, false, at::kDouble);
    sum += std::pow(norm.item<double>(), 2);
  }
  return std::sqrt(sum);
}

}  // namespace

KindCounts count_kinds(const data::Dataset& dataset, const data::Sampler& sampler,
                       const std::vector<Position>& global_batch) {
  KindCounts counts;
  for (const Position position : global_batch) {
    ++counts[std::string(dataset.kind(sampler.at(position)))];
  }
  return counts;
}

std::vector<std::vector<std::size_t>> plan_buckets(const std::vector<NamedParameter>& parameters,
                                                   std::int64_t bucket_bytes) {
  std::vector<std::vector<std::size_t>> buckets;
  std::int64_t filled = 0;
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const auto bytes = static_cast<std::int64_t>(parameters[i].tensor.nbytes());
    if (buckets.empty() || filled + bytes > bucket_bytes) {
      buckets.emplace_back();
      filled = 0;
    }
    buckets.back().push_back(i);
    filled += bytes;
  }
  return buckets;
}

StepReport plain_step(StepParts& parts, Step step, const Draws& draws, const KindCounts& kinds,
                      std::int64_t micro_steps, const std::function<data::Batch()>& next_batch,
                      double learning_rate) {
  const dist::Communicator& world = parts.collectives.communicator();
  const StepContext context{.step = step, .draws = draws};

  forget_gradients(parts.parameters);
  StepReport report;
  world.agreed([&] {
    for (std::int64_t micro = 0; micro < micro_steps; ++micro) {
      const data::Batch batch = next_batch();
      parts.bad_samples.note(batch.replaced);
      if (batch.size() == 0) continue;  // this rank's share was shorter
      report.loss += forward_backward(parts, context, kinds, batch);
    }
    define_gradients(parts.parameters);
    require_finite_gradients(parts, step);
  });

  reduce_gradients(parts);
  std::array sums{report.loss, parts.stop.requested() ? 1.0 : 0.0,
                  parts.bad_samples.has_news() ? 1.0 : 0.0};
  world.all_reduce(sums, dist::ReduceOp::sum);
  report.loss = sums[0];
  report.stop = sums[1] > 0;
  for (const auto& line : parts.bad_samples.merge(world, sums[2] > 0)) log_common_warning(line);
  report.grad_norm = global_norm(parts.parameters);
  world.agreed([&] {  // finite on each rank, and yet the sum may not be
    TRESTLE_REQUIRE_AS(
        numbers, std::isfinite(report.loss) && std::isfinite(report.grad_norm),
        "step {}: loss {} and gradient norm {}, though finite on each rank (the sum over the ranks "
        "is too large). Lower optim.learning_rate, or look at the data of this step.",
        step.value, report.loss, report.grad_norm);
  });

  // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
  const double scale = parts.max_grad_norm > 0
                           ? std::min(1.0, parts.max_grad_norm / (report.grad_norm + 1e-6))
                           : 1.0;
  parts.optimizer.step(learning_rate, scale);
  parts.ema.update();
  return report;
}

}  // namespace trestle::trainers
