#include "trainers/step.h"

#include "base/error.h"
#include "base/torch/finite.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace trestle::trainers {
namespace {

/// The first tensor on the way through this micro batch that is not finite, named for people.
std::string first_not_finite(const std::vector<NamedParameter>& parameters,
                             const data::Batch& batch, const LossReport& report) {
  for (const auto& [name, tensor] : batch.tensors) {
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      if (!all_finite(tensor[i])) return fmt::format("{} of sample {}", name, batch.ids[i]);
    }
  }
  for (const auto& parameter : parameters) {
    if (!all_finite(parameter.tensor)) return "parameter " + parameter.name;
  }
  for (const LossTerm& term : report.terms) {
    if (!all_finite(term.per_sample)) return "loss term " + term.name;
  }
  return "the sum of the loss";
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

std::string StepReport::not_finite() const {
  for (const ObjectiveReport& objective : objectives) {
    if (!objective.not_finite.empty()) return objective.not_finite;
  }
  return "";
}

data::Batch MicroBatches::get(std::int64_t index) {
  const auto place = static_cast<std::size_t>(index);
  if (place < kept_.size()) return kept_[place];
  data::Batch batch = next_();
  if (keep_) kept_.push_back(batch);
  return batch;
}

LocalLoss local_loss(Task& task, const Objective& objective, const StepContext& context,
                     const KindCounts& kinds, const data::Batch& batch,
                     const std::vector<NamedParameter>& parameters) {
  context.exchange.begin();
  LossReport report = task.loss(objective, batch, context);
  LocalLoss loss;
  for (const LossTerm& term : report.terms) {
    TRESTLE_ASSERT(term.per_sample.dim() == 1, "term {} has {} axes, not one value a sample",
                   term.name, term.per_sample.dim());
    const auto count = kinds.find(term.kind);
    // The whole global batch lacks this kind: nothing to divide, and nothing to divide by.
    if (count == kinds.end() && term.per_sample.numel() == 0) continue;
    TRESTLE_ASSERT(count != kinds.end(), "term {} counts unknown kind \"{}\"", term.name,
                   term.kind);
    const at::Tensor share = term.per_sample.sum() / double(count->second);
    loss.graph = loss.graph.defined() ? loss.graph + share : share;
  }
  if (loss.graph.defined()) loss.value = loss.graph.item<double>();
  if (!std::isfinite(loss.value)) {
    loss.not_finite = fmt::format("the loss is {} (the first tensor that is not finite: {})",
                                  loss.value, first_not_finite(parameters, batch, report));
    loss.graph.reset();
  }
  loss.graph = context.exchange.tie(loss.graph);
  loss.metrics = std::move(report.metrics);
  return loss;
}

std::string gradient_problem(const std::string& parameter) {
  return fmt::format("the gradient of {} is not finite (though the loss is)", parameter);
}

std::string not_finite_message(int rank, Step step, const std::string& problem) {
  return fmt::format(
      "rank {}: step {}: {}. Lower optim.learning_rate, or look at the data of this step.", rank,
      step.value, problem);
}

double clip_factor(double max_grad_norm, double grad_norm) {
  // torch adds the same 1e-6.
  return max_grad_norm > 0 ? std::min(1.0, max_grad_norm / (grad_norm + 1e-6)) : 1.0;
}

}  // namespace trestle::trainers
