#include "trainers/paranoid.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>

namespace trestle::trainers {
namespace {

std::vector<NamedParameter> copies(const std::vector<NamedParameter>& parameters) {
  std::vector<NamedParameter> result;
  for (const auto& [name, tensor] : parameters) {
    result.push_back(
        {name, tensor.detach().to(dist::sum_dtype_of(tensor.scalar_type()), false, /*copy=*/true)});
  }
  return result;
}

/// Equal, or as near as `tolerance` says; 0: equal bits, save that zeros have no sign.
bool agree(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  if (a.numel() == 0) return true;
  if (tolerance == 0) return at::equal(a, b);
  const double difference = (a - b).abs().max().item<double>();
  return difference <= tolerance * b.abs().max().item<double>() || difference < 1e-30;  // both zero
}

}  // namespace

Paranoid::Paranoid(Task& task, Engine& engine, dist::Collectives& plain,
                   const EngineOptions& options)
    : task_(task),
      engine_(engine),
      plain_(plain),
      options_(options),
      objective_(task.objectives().front()),
      masters_(copies(engine.parameters())),
      optimizer_(masters_, options.optim),
      no_average_({}, {.enabled = false}) {}

checkpoint::Visitor Paranoid::visitor() {
  return [this](checkpoint::Scope& root) {
    checkpoint::Scope model = root.child("model"), optim = root.child("optim");
    for (auto& [name, tensor] : masters_) model.tensor(name, tensor);
    optimizer_.state(optim);
  };
}

StepReport Paranoid::step(const StepInputs& inputs) {
  std::vector<data::Batch> batches;
  StepInputs first = inputs;
  data::BadSamples unsaid(std::numeric_limits<std::int64_t>::max());
  StepInputs plain_inputs{.step = inputs.step,
                          .draws = inputs.draws,
                          .kinds = inputs.kinds,
                          .micro_steps = inputs.micro_steps,
                          .next_batch =
                              [&] {
                                batches.push_back(inputs.next_batch());
                                return batches.back();
                              },
                          .learning_rate_factor = inputs.learning_rate_factor,
                          .bad_samples = unsaid,
                          .stop = {}};
  engine_.wait();  // the plain forward reads the parameters, too
  StepParts parts{.task = task_,
                  .objective = objective_,
                  .parameters = engine_.parameters(),
                  .collectives = plain_,
                  .optimizer = optimizer_,
                  .ema = no_average_,
                  .learning_rate = options_.optim.learning_rate,
                  .max_grad_norm = options_.max_grad_norm};
  const StepReport plain = plain_step(parts, plain_inputs);
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : parts.parameters)
    gradients.push_back(std::exchange(parameter.tensor.mutable_grad(), at::Tensor()));

  std::size_t next = 0;
  first.next_batch = [&] { return batches.at(next++); };
  const StepReport fast = engine_.step(first);
  plain_.communicator().agreed([&] { compare(inputs, gradients, plain, fast); });
  return fast;
}

void Paranoid::compare(const StepInputs& inputs, const std::vector<at::Tensor>& gradients,
                       const StepReport& plain, const StepReport& fast) const {
  const bool same_order =
      inputs.micro_steps == 1 || options_.reducer.shard != dist::ShardMode::gradients;
  const bool rounded = options_.reducer.wire == dist::WireDtype::bf16;
  const double tolerance = rounded ? 2e-2 : same_order ? 0.0 : 1e-6;
  const auto differ = [&](const std::string& what) {
    fail(ExitCode::numbers,
         "step {}: rank {}: {} differ between the engine and the plain step (dist.paranoid "
         "compares them). This is a bug of the program or of the hardware: please report it with "
         "the recipe.",
         inputs.step.value, plain_.communicator().rank(), what);
  };
  if (plain.not_finite.empty() != fast.not_finite.empty())
    differ(fmt::format("the verdicts (\"{}\" and \"{}\")", fast.not_finite, plain.not_finite));
  if (!plain.not_finite.empty()) return;

  std::map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < masters_.size(); ++i) index[masters_[i].name] = i;
  for (const auto& piece : engine_.held()) {
    const std::size_t i = index.at(piece.parameter);
    const auto same_piece = [&](const at::Tensor& whole) {
      return whole.flatten().slice(0, piece.begin, piece.begin + piece.master.numel());
    };
    if (!agree(piece.gradient, same_piece(gradients[i]), tolerance))
      differ(fmt::format("the gradients of {}", piece.parameter));
    if (!agree(piece.master, same_piece(masters_[i].tensor), tolerance))
      differ(fmt::format("the masters of {}", piece.parameter));
  }
}

}  // namespace trestle::trainers
