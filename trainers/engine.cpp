#include "trainers/engine.h"

#include "base/error.h"
#include "base/log.h"
#include "base/torch/finite.h"
#include "dist/same_parameters.h"
#include "trainers/optim/ema_decay.h"
#include "trainers/optim/fused_adamw.h"
#include "trainers/optim/gradient_norm.h"
#include "trainers/options.h"
#include "trainers/sharded_group.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <map>

namespace trestle::trainers {
namespace {

constexpr std::string_view kShardNames[] = {"none", "optimizer", "gradients"};

/// What a step's one small collective carries, all of it as integers that are summed.
struct Tally {
  ExactSum squares, loss;
  std::array<std::int64_t, 5> flags{};
  enum Flag { stop, bad_news, failed, not_finite, late };

  void sum_over(const dist::Communicator& world) {
    std::vector<std::int64_t> words;
    for (const auto part : parts()) words.insert(words.end(), part.begin(), part.end());
    world.all_reduce(std::span(words), dist::ReduceOp::sum);
    std::size_t at = 0;
    for (const auto part : parts()) {
      std::copy_n(words.begin() + static_cast<std::ptrdiff_t>(at), part.size(), part.begin());
      at += part.size();
    }
  }

 private:
  std::array<std::span<std::int64_t>, 3> parts() {
    return {squares.words(), loss.words(), std::span(flags)};
  }
};

/// A group's parameters by dtype, each in export order.
std::map<at::ScalarType, std::vector<dist::NamedLeaf>> by_dtype(const ParameterGroup& group) {
  std::map<at::ScalarType, std::vector<dist::NamedLeaf>> lists;
  for (const auto& [name, tensor] : group.parameters)
    lists[tensor.scalar_type()].push_back({name, tensor});
  return lists;
}

}  // namespace

EngineOptions EngineOptions::of(const configs::Recipe& recipe) {
  const auto dist = recipe.section<DistOptions>("dist");
  const auto shard = std::ranges::find(kShardNames, dist.shard) - std::begin(kShardNames);
  return {
      .reducer = {.shard = static_cast<dist::ShardMode>(shard),
                  .wire = dist.wire_dtype == "bf16" ? dist::WireDtype::bf16 : dist::WireDtype::sum},
      .bucket_bytes = dist.bucket_bytes,
      .max_grad_norm = recipe.section<TrainOptions>("train").max_grad_norm,
      .optim = recipe.section<AdamWOptions>("optim"),
      .ema = recipe.section<EmaOptions>("ema")};
}

struct Engine::Impl {
  Impl(Task& task_, dist::Collectives& collectives_, EngineOptions options_)
      : task(task_), collectives(collectives_), options(std::move(options_)) {
    const auto objectives = task.objectives();
    TRESTLE_ASSERT(objectives.size() == 1, "{} objectives; the engine knows one",
                   objectives.size());
    objective = objectives.front();
    const dist::BucketOptions buckets{.ranks = collectives.communicator().size(),
                                      .element_bytes = 4,
                                      .bucket_bytes = options.bucket_bytes};
    std::vector<dist::FlatGroup*> flats;
    for (const ParameterGroup& group : task.groups()) {
      parameters.insert(parameters.end(), group.parameters.begin(), group.parameters.end());
      for (auto& [dtype, leaves] : by_dtype(group)) {
        groups.emplace_back(
            std::make_unique<dist::FlatGroup>(group.name, std::move(leaves), buckets),
            std::make_unique<FusedAdamW>(options.optim), collectives,
            ShardedGroupOptions{.shard = options.reducer.shard,
                                .averages = options.ema.enabled && group.ema ? std::size_t{1} : 0});
        flats.push_back(&groups.back().flat());
      }
    }
    reducer.emplace(flats, collectives, options.reducer);
  }

  const dist::Communicator& world() const { return collectives.communicator(); }

  StepReport step(const StepInputs& inputs) {
    reducer->begin_step({.micro_steps = inputs.micro_steps});
    wait();
    Tally tally;
    std::string problem;  // this rank's, with a number that is not finite
    std::exception_ptr failure;
    try {
      problem = run_micro_batches(inputs, tally.loss);
    } catch (...) {
      failure = std::current_exception();
    }
    reducer->finish();  // whatever happened: others wait for this rank's part
    if (problem.empty() && !reducer->not_finite().empty())
      problem = fmt::format("the gradient of {} is not finite (though the loss is)",
                            reducer->not_finite());
    tally.flags = {inputs.stop.requested(), inputs.bad_samples.has_news(), failure != nullptr,
                   !problem.empty(), reducer->has_late()};
    add_squares_of(tally.squares);
    tally.sum_over(world());
    if (tally.flags[Tally::failed] > 0) world().agree(failure);
    if (tally.flags[Tally::late] > 0) tally.squares = add_late(inputs.step);

    StepReport report;
    report.loss = tally.loss.value();
    report.grad_norm = std::sqrt(tally.squares.value());
    report.stop = tally.flags[Tally::stop] > 0;
    for (const auto& line : inputs.bad_samples.merge(world(), tally.flags[Tally::bad_news] > 0)) {
      log_common_warning(line);
    }
    say_unused();
    if (tally.flags[Tally::not_finite] > 0 || !std::isfinite(report.loss) ||
        !std::isfinite(report.grad_norm)) {
      report.not_finite = describe_not_finite(inputs.step, problem, report);
      return report;
    }
    update(inputs, clip_factor(options.max_grad_norm, report.grad_norm));
    return report;
  }

  /// Forward and backward; returns what is not finite here.
  std::string run_micro_batches(const StepInputs& inputs, ExactSum& loss_sum) {
    const StepContext context{.step = inputs.step, .draws = inputs.draws};
    std::string problem;
    for (std::int64_t micro = 0; micro < inputs.micro_steps; ++micro) {
      const data::Batch batch = inputs.next_batch();
      inputs.bad_samples.note(batch.replaced);
      if (reducer->must_count()) count_arrivals(context, inputs, batch);
      LocalLoss loss;
      if (batch.size() > 0)
        loss = local_loss(task, objective, context, inputs.kinds, batch, parameters);
      if (!loss.not_finite.empty()) {
        if (problem.empty()) problem = loss.not_finite;
        loss.graph.reset();
      }
      loss_sum.add(loss.value);
      reducer->begin_backward();
      if (loss.graph.defined()) torch::autograd::backward({loss.graph}, {});
      reducer->end_backward();
    }
    return problem;
  }

  /// Backward once more for the counts alone, before anything is kept.
  void count_arrivals(const StepContext& context, const StepInputs& inputs,
                      const data::Batch& batch) {
    reducer->begin_counting();
    if (batch.size() > 0) {
      const LocalLoss loss = local_loss(task, objective, context, inputs.kinds, batch, parameters);
      if (loss.graph.defined()) torch::autograd::backward({loss.graph}, {});
    }
    reducer->end_counting();
  }

  void add_squares_of(ExactSum& squares) const {
    for (const dist::Part& part : reducer->parts())
      add_squares(reducer->own_gradients(part), squares);
  }

  ExactSum add_late(Step step) {
    const auto names = reducer->add_late();
    log_common_warning(fmt::format(
        "step {}: the gradients of {} came after their buckets were reduced (the model uses them "
        "in another way than before). They are added; the next step is not overlapped.",
        step.value, fmt::join(names, ", ")));
    Tally again;
    add_squares_of(again.squares);
    again.sum_over(world());
    return again.squares;
  }

  /// Said when the counts were learned: once, unless they change.
  void say_unused() {
    const auto& unused = reducer->unused();
    if (unused == said_unused) return;
    said_unused = unused;
    if (unused.empty()) return;
    log_common_warning(fmt::format(
        "{} parameters get no gradient (no loss reached them in this step; they count as zero and "
        "are still decayed): {}",
        unused.size(), fmt::join(unused, ", ")));
  }

  /// COLLECTIVE. The lowest rank's problem; where each rank's numbers are finite, the sum's.
  std::string describe_not_finite(Step step, const std::string& problem,
                                  const StepReport& report) const {
    const std::string mine =
        problem.empty() ? "" : not_finite_message(world().rank(), step, problem);
    for (const std::string& text : world().all_gather_bytes(mine)) {
      if (!text.empty()) return text;
    }
    const std::string first = first_not_finite_sum();
    for (const std::string& name : world().all_gather_bytes(first)) {
      if (name.empty()) continue;
      if (world().size() == 1)
        return not_finite_message(
            0, step, fmt::format("the gradient of {} is not finite (though the loss is)", name));
      return fmt::format(
          "step {}: the sum over the ranks of the gradient of {} is not finite, though each rank's "
          "is (it is too large). Lower optim.learning_rate, or look at the data of this step.",
          step.value, name);
    }
    return fmt::format(
        "step {}: loss {} and gradient norm {}, though finite on each rank (the sum over the ranks "
        "is too large). Lower optim.learning_rate, or look at the data of this step.",
        step.value, report.loss, report.grad_norm);
  }

  std::string first_not_finite_sum() const {
    for (const auto& piece : held()) {
      if (!all_finite(piece.gradient)) return piece.parameter;
    }
    return "";
  }

  void update(const StepInputs& inputs, double gradient_scale) {
    const std::string* in_use = reducer->leaf_in_use();
    TRESTLE_ASSERT(in_use == nullptr,
                   "parameter {} changes while a graph still needs it (the task kept a tensor of "
                   "its loss without detach())",
                   *in_use);
    ++count;
    const std::vector<double> decays = {options.ema.decay_after(count - 1)};
    StepScalars scalars{.learning_rate = options.optim.learning_rate * inputs.learning_rate_factor,
                        .gradient_scale = gradient_scale,
                        .count = count,
                        .zero_gradient = false,
                        .sums = {}};
    const auto& parts = reducer->parts();
    const auto shard_of = [&](const dist::Part& part) {
      return groups[part.group].shard(part.bucket, reducer->gradients(part), decays);
    };
    std::vector<Shard> shards;
    for (const dist::Part& part : parts) shards.push_back(shard_of(part));
    // Backwards: the next forward starts with the parameters whose gradients came last.
    for (std::size_t i = parts.size(); i-- > 0;) {
      groups[parts[i].group].optimizer().step(shards[i], scalars);
      groups[parts[i].group].start_gather(parts[i].bucket);
    }
  }

  std::vector<HeldPiece> held() const {
    std::vector<HeldPiece> pieces;
    for (const dist::Part& part : reducer->parts()) {
      const ShardedGroup& group = groups[part.group];
      const dist::FlatGroup& flat = group.flat();
      const dist::Bucket& bucket = flat.plan().buckets()[part.bucket];
      const dist::ElementSpan span = group.held(part.bucket);
      const at::Tensor gradient = reducer->gradients(part), master = group.master(part.bucket);
      for (const std::size_t i : bucket.parameters) {
        const dist::Placement& place = flat.plan().placements()[i];
        const std::int64_t begin = std::max(span.begin, place.offset);
        const std::int64_t end = std::min(span.end, place.offset + place.numel);
        if (begin >= end) continue;
        pieces.push_back({.parameter = flat.leaves()[i].name,
                          .begin = begin - place.offset,
                          .gradient = gradient.slice(0, begin - span.begin, end - span.begin),
                          .master = master.slice(0, begin - span.begin, end - span.begin)});
      }
    }
    return pieces;
  }

  void wait() {
    for (ShardedGroup& group : groups) group.wait();
  }

  Task& task;
  dist::Collectives& collectives;
  EngineOptions options;
  Objective objective;
  std::vector<NamedParameter> parameters;
  std::deque<ShardedGroup> groups;
  std::optional<dist::GradientReducer> reducer;  // after the groups, whose leaves it hooks
  std::int64_t count = 0;                        ///< steps of the optimizer
  std::vector<std::string> said_unused;
};

Engine::Engine(Task& task, dist::Collectives& collectives, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(task, collectives, options)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine::~Engine() = default;

StepReport Engine::step(const StepInputs& inputs) { return impl_->step(inputs); }

void Engine::state(checkpoint::Scope& root) {
  root.child("optim").number("count", impl_->count);
  if (impl_->options.ema.enabled) {
    std::int64_t updates = impl_->count;  // an average is updated with every step
    root.child("ema").number("count", updates);
  }
  for (ShardedGroup& group : impl_->groups) group.state(root);
}

void Engine::require_same_parameters(std::string_view when, ExitCode code) {
  impl_->wait();
  for (ShardedGroup& group : impl_->groups)
    dist::require_same_parameters(impl_->world(), group.flat().leaves(), when, code);
}

void Engine::wait() { impl_->wait(); }

void Engine::publish() {
  for (ShardedGroup& group : impl_->groups) group.publish();
}

Engine::Averaged::Averaged(Engine& engine, std::size_t average) : engine_(engine) {
  for (ShardedGroup& group : engine_.impl_->groups) group.show_average(average);
}

Engine::Averaged::~Averaged() {
  for (ShardedGroup& group : engine_.impl_->groups) group.show_masters();
}

const std::vector<NamedParameter>& Engine::parameters() const { return impl_->parameters; }

std::size_t Engine::buckets() const { return impl_->reducer->parts().size(); }

std::vector<Engine::HeldPiece> Engine::held() const { return impl_->held(); }

}  // namespace trestle::trainers
