#include "trainers/engine.h"

#include "base/error.h"
#include "base/log.h"
#include "base/torch/finite.h"
#include "dist/same_parameters.h"
#include "trainers/forward_gate.h"
#include "trainers/not_finite.h"
#include "trainers/optim/gradient_norm.h"
#include "trainers/optim/schedule.h"
#include "trainers/sharded_group.h"
#include "trainers/tally.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>

namespace trestle::trainers {
namespace {

/// A group's parameters by dtype, each in export order.
std::map<at::ScalarType, std::vector<dist::NamedLeaf>> by_dtype(const ParameterGroup& group) {
  std::map<at::ScalarType, std::vector<dist::NamedLeaf>> lists;
  for (const auto& [name, tensor] : group.parameters)
    lists[tensor.scalar_type()].push_back({name, tensor});
  return lists;
}

}  // namespace

struct Engine::Impl {
  /// A parameter group, whose parameters of each dtype are a ShardedGroup.
  struct Life {
    ParameterGroup group;
    GroupOptions options;
    std::unique_ptr<const Optimizer> optimizer;
    std::vector<NamedAverage> averages;
    std::int64_t count = 0;  ///< its steps
    std::vector<std::size_t> parts;
  };
  /// What a step does to a group.
  struct Update {
    StepScalars scalars;
    std::vector<double> sums, decays;
    const ShardedGroup::Project* project = nullptr;
  };
  /// An objective and what it trains.
  struct Line {
    Objective objective;
    std::vector<std::size_t> lives;
    std::vector<std::size_t> groups;  ///< the ShardedGroups, in the reducer's order
    std::vector<NamedParameter> parameters;
    std::unique_ptr<dist::GradientReducer> reducer;
    std::vector<std::string> said_unused;
    bool reduced = false;      ///< in the last step
    bool count_again = false;  ///< since gradients came late then, in this branch or another
    MetricNames metrics;       ///< that any rank of this branch has reported
  };

  Impl(Task& task_, dist::Collectives& collectives_, EngineOptions options_)
      : task(task_), collectives(collectives_), options(std::move(options_)) {
    for (ParameterGroup& group : task.groups()) add_life(std::move(group));
    for (const Objective& objective : task.objectives()) add_line(objective);
    for (const Life& life : lives) {
      const auto trains = [&](const Line& line) {
        return std::ranges::count(line.objective.groups, life.group.name);
      };
      TRESTLE_ASSERT(std::ranges::count_if(lines, trains) == 1,
                     "group {} is trained by {} objectives, not one", life.group.name,
                     std::ranges::count_if(lines, trains));
    }
    number_stages();
  }

  /// In the order of update().
  void number_stages() {
    checkpoint::Stage next = 0;
    std::vector<std::vector<checkpoint::Stage>> stages;
    for (const ShardedGroup& group : groups)
      stages.emplace_back(group.flat().plan().buckets().size(), checkpoint::kUnstaged);
    for (const Line& line : lines) {
      const auto& parts = line.reducer->parts();
      for (std::size_t i = parts.size(); i-- > 0;)
        stages[line.groups[parts[i].group]][parts[i].bucket] = next++;
    }
    for (std::size_t g = 0; g < groups.size(); ++g) groups[g].set_stages(std::move(stages[g]));
  }

  void add_life(ParameterGroup group) {
    parameters.insert(parameters.end(), group.parameters.begin(), group.parameters.end());
    Life& life = lives.emplace_back();
    life.options = options.of_group(group.name);
    life.optimizer = options.make_optimizer(life.options);
    life.averages = options.averages_of(group);
    std::vector<std::string> averages;
    for (const NamedAverage& average : life.averages) averages.push_back(average.name);
    const dist::BucketOptions buckets{
        .ranks = world().size(), .element_bytes = 4, .bucket_bytes = options.bucket_bytes};
    const auto shard = group.project ? dist::ShardMode::none : options.reducer.shard;
    for (auto& [dtype, leaves] : by_dtype(group)) {
      life.parts.push_back(groups.size());
      groups.emplace_back(std::make_unique<dist::FlatGroup>(group.name, std::move(leaves), buckets),
                          *life.optimizer, collectives,
                          ShardedGroupOptions{.shard = shard, .averages = averages});
    }
    life.group = std::move(group);
  }

  void add_line(const Objective& objective) {
    Line& line = lines.emplace_back();
    line.objective = objective;
    std::vector<dist::ReducedGroup> reduced;
    for (std::size_t l = 0; l < lives.size(); ++l) {
      const ParameterGroup& group = lives[l].group;
      if (std::ranges::count(objective.groups, group.name) == 0) continue;
      line.lives.push_back(l);
      line.parameters.insert(line.parameters.end(), group.parameters.begin(),
                             group.parameters.end());
      for (const std::size_t g : lives[l].parts) {
        line.groups.push_back(g);
        reduced.push_back({.flat = &groups[g].flat(), .whole = bool(group.project)});
      }
    }
    TRESTLE_ASSERT(line.lives.size() == objective.groups.size(),
                   "objective {} trains groups that the task does not have", objective.name);
    line.reducer = std::make_unique<dist::GradientReducer>(reduced, collectives, options.reducer);
  }

  /// Of this rank's branch.
  const dist::Communicator& world() const { return collectives.communicator(); }

  StepReport step(const StepInputs& inputs) {
    std::vector<Line*> due;
    for (Line& line : lines) {
      line.reduced = line.objective.due(inputs.step) && is_active(line, inputs.step);
      if (line.reduced) due.push_back(&line);
    }
    TRESTLE_ASSERT(!due.empty(), "no objective trains anything in step {}", inputs.step.value);
    MicroBatches batches(inputs.next_batch, /*keep=*/due.size() > 1);
    StepReport report;
    for (Line* line : due) report.objectives.push_back(step(*line, inputs, batches, report.stop));
    return report;
  }

  bool is_active(const Line& line, Step step) const {
    return std::ranges::any_of(line.lives,
                               [&](std::size_t l) { return lives[l].group.active.contains(step); });
  }

  /// Only what this line trains now takes part in autograd.
  void choose_leaves(const Line& line, Step step) {
    for (std::size_t l = 0; l < lives.size(); ++l) {
      const bool trained =
          std::ranges::count(line.lives, l) > 0 && lives[l].group.active.contains(step);
      for (const auto& leaf : lives[l].group.parameters) {
        if (leaf.tensor.requires_grad() != trained) leaf.tensor.requires_grad_(trained);
      }
    }
  }

  ObjectiveReport step(Line& line, const StepInputs& inputs, MicroBatches& batches, bool& stop) {
    std::vector<bool> active;
    for (const std::size_t l : line.lives) {
      for (std::size_t i = 0; i < lives[l].parts.size(); ++i)
        active.push_back(lives[l].group.active.contains(inputs.step));
    }
    choose_leaves(line, inputs.step);
    line.reducer->begin_step({.micro_steps = inputs.micro_steps, .active = std::move(active)});
    Tally tally;
    Metrics metrics;
    std::string problem;  // this rank's, with a number that is not finite
    std::exception_ptr failure;
    try {
      ForwardGate gate(groups);
      problem = run_micro_batches(line, inputs, batches, gate, tally.loss, metrics);
    } catch (const dist::AgreedError&) {
      failure = std::current_exception();
    } catch (...) {
      if (task.exchanges()) throw;  // others may wait inside their losses: all leave at once
      failure = std::current_exception();
    }
    inputs.enter(StepPhase::reduction);
    line.reducer->finish();  // whatever happened: others wait for this rank's part
    inputs.enter(StepPhase::norm);
    if (problem.empty() && !line.reducer->not_finite().empty())
      problem = gradient_problem(line.reducer->not_finite());
    const checkpoint::SaveFlags save = saving ? saving->flags() : checkpoint::SaveFlags{};
    tally.flags = {inputs.stop.requested(),
                   inputs.bad_samples.has_news(),
                   failure != nullptr,
                   !problem.empty(),
                   line.reducer->has_late(),
                   !line.metrics.contains(metrics.names()),
                   save.written,
                   save.failed,
                   save.sealed};
    add_squares_of(line, tally.squares);
    tally.metrics = metrics.numbers(line.metrics);
    tally.sum_over(world(), line.metrics);
    const bool new_metrics = tally.flags[Tally::new_metrics] > 0;
    if (tally.flags[Tally::late] > 0 && tally.flags[Tally::failed] == 0)
      tally.squares = add_late(line, inputs.step);
    const dist::Communicator& everyone = inputs.everyone(world());
    if (inputs.mesh) {  // what goes wrong in one branch concerns all
      tally.flags[Tally::not_finite] += !std::isfinite(tally.loss.value() + tally.squares.value());
      inputs.mesh->across().all_reduce(std::span(tally.flags), dist::ReduceOp::sum);
    }
    if (saving) {
      saving->learn({.written = tally.flags[Tally::shard_written],
                     .failed = tally.flags[Tally::save_failed],
                     .sealed = tally.flags[Tally::save_sealed]});
    }
    if (tally.flags[Tally::failed] > 0) everyone.agree(failure);
    line.count_again = tally.flags[Tally::late] > 0;
    if (new_metrics) tally.metrics = merge_metrics(world(), metrics, line.metrics);

    ObjectiveReport report{.name = line.objective.name,
                           .loss = tally.loss.value(),
                           .grad_norm = std::sqrt(tally.squares.value()),
                           .not_finite = {},
                           .metrics = line.metrics.values(tally.metrics)};
    if (inputs.mesh) report.branches = numbers_of_branches(*inputs.mesh, report);
    stop = stop || tally.flags[Tally::stop] > 0;
    for (const auto& text : inputs.bad_samples.merge(everyone, tally.flags[Tally::bad_news] > 0)) {
      log_common_warning(text);
    }
    say_unused(line);
    if (tally.flags[Tally::not_finite] > 0 || !std::isfinite(report.loss) ||
        !std::isfinite(report.grad_norm)) {
      report.not_finite = describe_not_finite(everyone, world().size(), inputs.step, problem,
                                              first_not_finite_sum(line), report);
      return report;
    }
    inputs.enter(StepPhase::update);
    update(line, inputs, clip_factor(options.max_grad_norm, report.grad_norm));
    return report;
  }

  /// Forward and backward; returns what is not finite here.
  std::string run_micro_batches(Line& line, const StepInputs& inputs, MicroBatches& batches,
                                ForwardGate& gate, ExactSum& loss_sum, Metrics& metrics) {
    dist::GradientReducer& reducer = *line.reducer;
    const StepContext context{
        .step = inputs.step, .draws = inputs.draws, .exchange = inputs.exchange};
    std::string problem;
    for (std::int64_t micro = 0; micro < inputs.micro_steps; ++micro) {
      inputs.enter(StepPhase::data);
      const data::Batch batch = batches.get(micro);
      inputs.enter(StepPhase::forward);
      inputs.bad_samples.note(batch.replaced);
      if (micro == 0 && must_count(line)) {
        gate.open();
        count_arrivals(line, context, inputs, batch);
      }
      LocalLoss loss;
      if (batch.size() > 0)
        loss = local_loss(task, line.objective, context, inputs.kinds, batch, line.parameters);
      gate.open();
      if (problem.empty()) problem = loss.not_finite;
      loss_sum.add(loss.value);
      metrics.add(loss.metrics);
      inputs.enter(StepPhase::backward);
      reducer.begin_backward();
      if (loss.graph.defined()) torch::autograd::backward({loss.graph}, {});
      reducer.end_backward();
    }
    return problem;
  }

  /// Branches whose losses exchange count together: what begins and changes in one does in all, and
  /// that gradients came late in one all know.
  bool must_count(const Line& line) const {
    const bool counts = options.reducer.shard == dist::ShardMode::gradients;
    return counts && (line.reducer->must_count() || line.count_again);
  }

  /// Backward once more for the counts alone, before anything is kept.
  void count_arrivals(Line& line, const StepContext& context, const StepInputs& inputs,
                      const data::Batch& batch) {
    line.reducer->begin_counting();
    if (batch.size() > 0) {
      const LocalLoss loss =
          local_loss(task, line.objective, context, inputs.kinds, batch, line.parameters);
      if (loss.graph.defined()) torch::autograd::backward({loss.graph}, {});
    }
    line.reducer->end_counting();
  }

  /// COLLECTIVE, over all branches.
  static std::vector<ObjectiveReport::Numbers> numbers_of_branches(const dist::Mesh& mesh,
                                                                   const ObjectiveReport& mine) {
    std::vector<double> numbers(2 * static_cast<std::size_t>(mesh.branches()), 0.0);
    const auto place = 2 * static_cast<std::size_t>(mesh.branch());
    if (mesh.data().is_root()) {
      numbers[place] = mine.loss;
      numbers[place + 1] = mine.grad_norm;
    }
    mesh.world().all_reduce(std::span(numbers), dist::ReduceOp::sum);
    std::vector<ObjectiveReport::Numbers> branches;
    for (std::size_t i = 0; i < numbers.size(); i += 2)
      branches.push_back({.loss = numbers[i], .grad_norm = numbers[i + 1]});
    return branches;
  }

  static void add_squares_of(const Line& line, ExactSum& squares) {
    for (const dist::Part& part : line.reducer->parts())
      add_squares(line.reducer->own_gradients(part), squares);
  }

  ExactSum add_late(Line& line, Step step) {
    const auto names = line.reducer->add_late();
    log_common_warning(fmt::format(
        "step {}: the gradients of {} came after their buckets were reduced (the model uses them "
        "in another way than before). They are added; the next step is not overlapped.",
        step.value, fmt::join(names, ", ")));
    Tally again;
    add_squares_of(line, again.squares);
    again.sum_over(world());
    return again.squares;
  }

  /// Said when the counts were learned: once, unless they change.
  static void say_unused(Line& line) {
    const auto& unused = line.reducer->unused();
    if (unused == line.said_unused) return;
    line.said_unused = unused;
    if (unused.empty()) return;
    log_common_warning(fmt::format(
        "{} parameters get no gradient (no loss reached them in this step; they count as zero and "
        "are still decayed): {}",
        unused.size(), fmt::join(unused, ", ")));
  }

  std::string first_not_finite_sum(const Line& line) const {
    std::vector<HeldPiece> pieces;
    add_held(line, pieces);
    for (const auto& piece : pieces) {
      if (!all_finite(piece.gradient)) return piece.parameter;
    }
    return "";
  }

  void update(Line& line, const StepInputs& inputs, double gradient_scale) {
    const std::string* in_use = line.reducer->leaf_in_use();
    TRESTLE_ASSERT(in_use == nullptr,
                   "parameter {} changes while a graph still needs it (the task kept a tensor of "
                   "its loss without detach())",
                   *in_use);
    std::deque<Update> updates;
    std::vector<const Update*> update_of(groups.size());
    for (const std::size_t l : line.lives) {
      Life& life = lives[l];
      if (!life.group.active.contains(inputs.step)) continue;
      ++life.count;
      const double factor = schedule_factor(life.options.schedule, inputs.step, inputs.total_steps);
      Update& update = updates.emplace_back();
      update.scalars = {.learning_rate = life.options.adamw.learning_rate * factor,
                        .gradient_scale = gradient_scale,
                        .count = life.count,
                        .zero_gradient = false,
                        .sums = {}};
      update.sums = sums_for(line, life, update.scalars);
      update.scalars.sums = update.sums;
      for (const NamedAverage& average : life.averages)
        update.decays.push_back(average.options.decay_after(life.count - 1));
      update.project = &life.group.project;
      for (const std::size_t g : life.parts) update_of[g] = &update;
    }
    // Backwards: the next forward starts with the parameters whose gradients came last.
    const auto& parts = line.reducer->parts();
    for (std::size_t i = parts.size(); i-- > 0;) {
      const std::size_t g = line.groups[parts[i].group];
      const Update& update = *update_of[g];
      if (saving) saving->before_change(groups[g].stage(parts[i].bucket));
      groups[g].step(parts[i].bucket, line.reducer->gradients(parts[i]), update.scalars,
                     update.decays, *update.project);
      groups[g].start_gather(parts[i].bucket);
    }
  }

  /// COLLECTIVE. What the group's optimizer has to know of all shards before it can step.
  std::vector<double> sums_for(const Line& line, const Life& life, const StepScalars& scalars) {
    if (life.optimizer->rounds() == 0) return {};
    std::vector<Shard> shards;
    for (const dist::Part& part : line.reducer->parts()) {
      const std::size_t g = line.groups[part.group];
      if (std::ranges::count(life.parts, g) > 0)
        shards.push_back(groups[g].own_shard(part.bucket, line.reducer->own_gradients(part)));
    }
    return global_sums(*life.optimizer, shards, scalars, [&](std::span<double> sums) {
      world().all_reduce(sums, dist::ReduceOp::sum);
    });
  }

  void add_held(const Line& line, std::vector<HeldPiece>& pieces) const {
    for (const dist::Part& part : line.reducer->parts()) {
      const ShardedGroup& group = groups[line.groups[part.group]];
      const dist::FlatGroup& flat = group.flat();
      const dist::Bucket& bucket = flat.plan().buckets()[part.bucket];
      const dist::ElementSpan span = group.held(part.bucket);
      const at::Tensor gradient = line.reducer->gradients(part), master = group.master(part.bucket);
      for (const std::size_t i : bucket.parameters) {
        const dist::Placement& place = flat.plan().placements()[i];
        const dist::ElementSpan mine = overlap(place, span);
        if (mine.size() == 0) continue;
        const auto here = [&](const at::Tensor& held) {
          return held.slice(0, mine.begin - span.begin, mine.end - span.begin);
        };
        HeldPiece& piece = pieces.emplace_back();
        piece.parameter = flat.leaves()[i].name;
        piece.begin = mine.begin - place.offset;
        piece.gradient = here(gradient);
        piece.master = here(master);
        for (const at::Tensor& average : group.averages(part.bucket))
          piece.averages.push_back(here(average));
      }
    }
  }

  void wait() {
    for (ShardedGroup& group : groups) group.wait();
  }

  void before_any_change() {
    if (saving) saving->before_any_change();
  }

  Task& task;
  dist::Collectives& collectives;
  EngineOptions options;
  std::vector<NamedParameter> parameters;
  std::deque<Life> lives;  // before the groups, which their optimizers step
  std::deque<ShardedGroup> groups;
  std::deque<Line> lines;  // after the groups, whose leaves their reducers hook
  checkpoint::SaveUnderWay* saving = nullptr;
};

Engine::Engine(Task& task, dist::Collectives& collectives, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(task, collectives, options)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine::~Engine() = default;

StepReport Engine::step(const StepInputs& inputs) { return impl_->step(inputs); }

void Engine::state(checkpoint::Scope& root) {
  for (auto& life : impl_->lives) {
    checkpoint::Scope optim =
        count_scope(root.child("optim"), life.group.name, impl_->lives.size());
    optim.number("count", life.count);
    for (const NamedAverage& average : life.averages) {
      std::int64_t updates = life.count;  // an average is updated with every step
      count_scope(root.child(average.name), life.group.name, impl_->lives.size())
          .number("count", updates);
    }
  }
  for (ShardedGroup& group : impl_->groups) group.state(root);
}

checkpoint::Scope count_scope(const checkpoint::Scope& scope, const std::string& group,
                              std::size_t groups) {
  return groups == 1 ? scope : scope.child("groups").child(group);
}

void Engine::require_same_parameters(std::string_view when, ExitCode code) {
  impl_->wait();
  for (ShardedGroup& group : impl_->groups)
    dist::require_same_parameters(impl_->world(), group.flat().leaves(), when, code);
}

void Engine::wait() { impl_->wait(); }

void Engine::save_with(checkpoint::SaveUnderWay* saving) { impl_->saving = saving; }

void Engine::before_any_change() { impl_->before_any_change(); }

void Engine::publish() {
  before_any_change();
  for (ShardedGroup& group : impl_->groups) group.publish();
}

Engine::Averaged::Averaged(Engine& engine, std::string_view average) : engine_(engine) {
  engine_.before_any_change();  // masters may make room for averages, and come back at the end
  for (ShardedGroup& group : engine_.impl_->groups) group.show_average(average);
}

Engine::Averaged::~Averaged() {
  for (ShardedGroup& group : engine_.impl_->groups) group.show_masters();
}

const dist::Collectives& Engine::collectives() const { return impl_->collectives; }

const std::vector<NamedParameter>& Engine::parameters() const { return impl_->parameters; }

std::size_t Engine::buckets() const {
  std::size_t buckets = 0;
  for (const auto& line : impl_->lines) buckets += line.reducer->parts().size();
  return buckets;
}

std::vector<Engine::HeldPiece> Engine::held() const {
  std::vector<HeldPiece> pieces;
  for (const auto& line : impl_->lines) {
    if (line.reduced) impl_->add_held(line, pieces);
  }
  return pieces;
}

}  // namespace trestle::trainers
