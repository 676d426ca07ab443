#include "trainers/paranoid.h"

#include "base/error.h"
#include "trainers/contribution_sizes.h"
#include "trainers/state.h"

#include <ATen/ATen.h>

#include <limits>
#include <map>
#include <utility>

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

/// Whether `a` is the piece of `whole` that begins at `begin`, to `tolerance` times `size`; 0:
/// equal bits, save that zeros have no sign.
bool agree(const at::Tensor& a, const at::Tensor& whole, std::int64_t begin, double tolerance,
           double size) {
  const at::Tensor b = whole.flatten().slice(0, begin, begin + a.numel());
  if (a.numel() == 0) return true;
  if (tolerance == 0) return at::equal(a, b);
  const double difference = (a - b).abs().max().item<double>();
  return difference <= tolerance * size || difference < 1e-30;  // both zero
}

}  // namespace

Paranoid::Paranoid(Task& task, Engine& engine, dist::Collectives& plain,
                   const EngineOptions& options)
    : task_(task),
      engine_(engine),
      plain_(plain),
      options_(options),
      objectives_(task.objectives()) {
  for (const ParameterGroup& group : task.groups()) {
    const auto masters = copies(group.parameters);
    const GroupOptions& own = options.of_group(group.name);
    std::vector<Ema> averages;
    for (const NamedAverage& average : options.averages_of(group))
      averages.emplace_back(masters, average.options);
    groups_.push_back({.group = group,
                       .masters = masters,
                       .optimizer = AdamW(masters, own.adamw),
                       .averages = std::move(averages),
                       .learning_rate = own.adamw.learning_rate,
                       .schedule = own.schedule});
  }
}

checkpoint::Visitor Paranoid::visitor(int branch) {
  return [this, branch](checkpoint::Scope& whole) {
    checkpoint::Scope root = branch_scope(whole, branch, task_.branches());
    checkpoint::Scope model = root.child("model"), optim = root.child("optim");
    for (PlainGroup& plain : groups_) {
      for (auto& [name, tensor] : plain.masters) model.tensor(name, tensor);
      checkpoint::Scope steps = count_scope(optim, plain.group.name, groups_.size());
      plain.optimizer.state(steps, optim);
      for (std::size_t k = 0; k < plain.averages.size(); ++k) {
        checkpoint::Scope planes = root.child(options_.averages[k].name);
        checkpoint::Scope updates = count_scope(planes, plain.group.name, groups_.size());
        plain.averages[k].state(updates, planes);
      }
    }
  };
}

StepReport Paranoid::step(const StepInputs& inputs) {
  std::vector<data::Batch> batches;
  const StepReport plain = plain_side(inputs, batches);
  StepInputs again = inputs;
  std::size_t next = 0;
  again.next_batch = [&] { return batches.at(next++); };
  const StepReport fast = engine_.step(again);
  inputs.everyone(plain_.communicator()).agreed([&] { compare(inputs, plain, fast); });
  return fast;
}

StepReport Paranoid::plain_side(const StepInputs& inputs, std::vector<data::Batch>& batches) {
  data::BadSamples unsaid(std::numeric_limits<std::int64_t>::max());
  const StepInputs own{.step = inputs.step,
                       .draws = inputs.draws,
                       .kinds = inputs.kinds,
                       .micro_steps = inputs.micro_steps,
                       .next_batch =
                           [&] {
                             batches.push_back(inputs.next_batch());
                             return batches.back();
                           },
                       .total_steps = inputs.total_steps,
                       .bad_samples = unsaid,
                       .stop = {},
                       .exchange = inputs.exchange,
                       .mesh = inputs.mesh};
  engine_.before_any_change();     // the plain optimizer moves the parameters, which may be masters
  engine_.wait();                  // the plain forward reads them, too
  std::vector<at::Tensor> before;  // its optimizer moves them, and the engine starts where it did
  for (const auto& leaf : engine_.parameters()) before.push_back(leaf.tensor.detach().clone());
  ContributionSizes collectives(plain_);
  StepParts parts{.task = task_,
                  .objectives = objectives_,
                  .groups = groups_,
                  .collectives = collectives,
                  .max_grad_norm = options_.max_grad_norm};
  const StepReport report = plain_step(parts, own);
  gradient_sizes_ = collectives.sizes();
  gradients_.clear();
  for (const PlainGroup& plain : groups_) {
    auto& taken = gradients_.emplace_back();
    for (const auto& leaf : plain.group.parameters)
      taken.push_back(std::exchange(leaf.tensor.mutable_grad(), at::Tensor()));
  }
  for (std::size_t i = 0; i < before.size(); ++i)
    engine_.parameters()[i].tensor.detach().copy_(before[i]);
  return report;
}

void Paranoid::compare(const StepInputs& inputs, const StepReport& plain,
                       const StepReport& fast) const {
  const bool same_order =
      engine_.collectives().sums_in_rank_order() &&
      (inputs.micro_steps == 1 || options_.reducer.shard != dist::ShardMode::gradients);
  const bool rounded = options_.reducer.wire == dist::WireDtype::bf16;
  const double tolerance = rounded ? 2e-2 : same_order ? 0.0 : 1e-6;
  const auto differ = [&](const std::string& what) {
    fail(ExitCode::numbers,
         "step {}: rank {}: {} differ between the engine and the plain step (dist.paranoid "
         "compares them). This is a bug of the program or of the hardware: please report it with "
         "the recipe.",
         inputs.step.value, inputs.everyone(plain_.communicator()).rank(), what);
  };
  if (plain.not_finite().empty() != fast.not_finite().empty())
    differ(fmt::format("the verdicts (\"{}\" and \"{}\")", fast.not_finite(), plain.not_finite()));
  if (!plain.not_finite().empty()) return;

  std::map<std::string_view, std::pair<std::size_t, std::size_t>> place;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t i = 0; i < groups_[g].masters.size(); ++i)
      place[groups_[g].masters[i].name] = {g, i};
  }
  for (const auto& piece : engine_.held()) {
    const auto [g, i] = place.at(piece.parameter);
    const auto require_same = [&](const at::Tensor& fast_piece, const at::Tensor& whole,
                                  std::string_view what, double size) {
      if (!agree(fast_piece, whole, piece.begin, tolerance, size))
        differ(fmt::format("{} of {}", what, piece.parameter));
    };
    const auto size_of = [](const at::Tensor& whole) { return whole.abs().max().item<double>(); };
    const at::Tensor& master = groups_[g].masters[i].tensor;
    require_same(piece.gradient, gradients_[g][i], "the gradients",
                 gradient_sizes_.at(piece.parameter));
    require_same(piece.master, master, "the masters", size_of(master));
    for (std::size_t k = 0; k < piece.averages.size(); ++k) {
      const at::Tensor& average = groups_[g].averages[k].averages()[i];
      require_same(piece.averages[k], average, options_.averages[k].name, size_of(average));
    }
  }
}

}  // namespace trestle::trainers
