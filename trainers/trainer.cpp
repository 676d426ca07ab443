#include "trainers/trainer.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/save.h"
#include "dist/straggler.h"
#include "dist/wait_time.h"
#include "trainers/metrics/recorder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <optional>

namespace trestle::trainers {
namespace {

using Clock = std::chrono::steady_clock;

/// All but the first branch's of the objective that the task declares first.
std::vector<StepRecord::Further> further_numbers(const StepReport& report,
                                                 const std::string& first_objective) {
  std::vector<StepRecord::Further> further;
  for (const ObjectiveReport& objective : report.objectives) {
    const bool is_first = objective.name == first_objective;
    if (!is_first) further.push_back({objective.name, objective.loss, objective.grad_norm});
    for (std::size_t branch = 1; branch < objective.branches.size(); ++branch) {
      const auto& [loss, grad_norm] = objective.branches[branch];
      const std::string name = fmt::format("branch-{}", branch);
      further.push_back({is_first ? name : objective.name + "/" + name, loss, grad_norm});
    }
  }
  return further;
}

/// The task's metrics; those of further objectives as "<name>/<objective>".
std::map<std::string, double> metrics_of(const StepReport& report,
                                         const std::string& first_objective) {
  std::map<std::string, double> metrics;
  for (const ObjectiveReport& objective : report.objectives) {
    for (const auto& [name, value] : objective.metrics)
      metrics[objective.name == first_objective ? name : name + "/" + objective.name] = value;
  }
  return metrics;
}

}  // namespace

PlacedTask place_task(const configs::Recipe& recipe, const dist::Communicator& world) {
  auto task = world.agreed([&] { return task_kind_of(recipe).make(recipe, Materialise::weights); });
  const dist::Mesh mesh(world, task->branches());
  if (mesh.branches() > 1) world.agreed([&] { task->enter_branch(mesh.branch()); });
  return {.task = std::move(task), .mesh = mesh};
}

Assembly::Assembly(const configs::Recipe& recipe, std::unique_ptr<Task> task_,
                   dist::Collectives& collectives, int branch_)
    : task(std::move(task_)),
      engine(*task, collectives, EngineOptions::of(recipe, *task)),
      branch(branch_) {}

Trainer::Trainer(const configs::Recipe& recipe, const dist::Communicator& world,
                 RunDirectory directory, const TrainerSettings& settings)
    : recipe_(recipe),
      schema_(schema_of(recipe)),
      resolved_(recipe.resolved_toml(schema_)),
      world_(world),
      directory_(std::move(directory)),
      run_(recipe.section<RunOptions>("run")),
      train_(recipe.section<TrainOptions>("train")),
      optim_(recipe.section<AdamWOptions>("optim")),
      schedule_(recipe.section<ScheduleOptions>("optim")),
      dist_(recipe.section<DistOptions>("dist")),
      watch_(recipe.section<WatchOptions>("dist")),
      checkpoint_(recipe.section<CheckpointOptions>("checkpoint")),
      sample_(recipe.section<SampleOptions>("sample")),
      log_(recipe.section<LogOptions>("log")),
      settings_(settings),
      draws_(static_cast<std::uint64_t>(run_.seed)),
      placed_(place_task(recipe, world)),
      summation_(choose_summation(mesh_, dist_.two_level, settings.hosts)),
      collectives_(
          dist::make_collectives(mesh_.data(), "gradients", {.two_level = summation_.two_level()})),
      assembly_(world.agreed([&] {
        return Assembly(recipe, std::move(placed_.task), *collectives_, mesh_.branch());
      })),
      exchange_(assembly_.task->exchanges() ? make_exchange(mesh_) : refuse_exchange(run_.task)),
      faults_(settings.faults, world, collectives_->communicator()),
      saver_(mesh_, {.folder = directory_.checkpoints(),
                     .resolved_recipe = resolved_,
                     .topology = summation_.record(),
                     .options = checkpoint_,
                     .flight = settings.flight}) {
  assembly_.engine.save_with(&saver_.under_way());
  if (!dist_.paranoid) return;
  plain_ = dist::make_collectives(mesh_.data(), "plain");
  paranoid_.emplace(*assembly_.task, assembly_.engine, *plain_,
                    EngineOptions::of(recipe, *assembly_.task));
}

Outcome Trainer::run() {
  world_.agreed([&] {
    if (world_.is_root()) directory_.create();
  });
  hold_ = settings_.hold;
  if (!hold_) hold_ = &own_hold_.emplace(world_, directory_, run_, settings_.stop);
  saver_.publish_as(hold_->epoch(), [this] { hold_->require(); }, {});
  const auto& step = assembly_.counters.step;
  try {
    const Outcome outcome = run_held();
    hold_->ended(outcome == Outcome::complete ? ExitCode::done : ExitCode::preempted, step, "");
    return outcome;
  } catch (const Error& error) {
    hold_->ended(error.code(), step, error.what());
    throw;
  }
}

Outcome Trainer::run_held() {
  world_.agreed([&] {
    if (world_.is_root()) checkpoint::remove_leftovers(directory_.checkpoints());
  });
  resume();

  if (assembly_.counters.step >= train_.steps && std::filesystem::exists(directory_.summary())) {
    log_info(
        "the run in {} is complete: {} of {} steps done (remove the folder, choose another "
        "--run-dir or raise train.steps to train again)",
        directory_.root().string(), assembly_.counters.step, train_.steps);
    return Outcome::complete;
  }
  world_.agreed([&] {
    if (!world_.is_root()) return;
    write_file_atomic(directory_.resolved_recipe(), resolved_, ExitCode::environment);
    hold_->began(saver_.newest().empty() ? -1 : assembly_.counters.step);
    directory_.rewind_metrics(assembly_.counters.step);
  });
  world_.agreed([&] {
    if (world_.is_root()) {
      recorder_.emplace(directory_, assembly_.counters.step, train_.steps, hold_->epoch() - 1,
                        log_);
    }
  });
  try {
    train();
    finish();
  } catch (const Error& error) {
    const bool is_agreed = world_.size() == 1 || dynamic_cast<const dist::AgreedError*>(&error);
    if (!is_agreed) throw;  // otherwise every rank is here
    if (error.code() == ExitCode::preempted) {
      save_and_leave(error.what());
      return Outcome::stopped;
    }
    // What is wrong with the data spoils no step that is done. (Numbers that are not finite may.)
    if (error.code() == ExitCode::data && loader_) save_and_leave("ends for its data");
    saver_.settle();  // what was begun before the error is worth having
    throw;
  }
  return Outcome::complete;
}

void Trainer::train() {
  RunCounters& counters = assembly_.counters;
  if (counters.step >= train_.steps) {
    save(SaveKind::last);  // unless it is saved here: what began at another run's last one is not
    return;
  }

  const data::Dataset& dataset =
      *world_.agreed([&] { return &assembly_.task->dataset(Split::train); });
  const data::Sampler sampler(draws_.seed(), dataset.size());
  const int ranks = mesh_.data().size();  // that share out the samples of a step
  const data::BatchPlan plan(train_.global_batch, train_.micro_batch, mesh_.data().rank(), ranks);
  const auto loading = recipe_.section<data::LoaderOptions>("data");
  loader_ = std::make_unique<data::Loader>(dataset, sampler, plan, Step{counters.step}, loading,
                                           settings_.stop);
  data::BadSamples bad_samples(loading.max_bad);
  bad_samples.restore(counters.bad_samples);
  std::int64_t numel = 0;
  for (const auto& parameter : assembly_.engine.parameters()) numel += parameter.tensor.numel();
  log_info("{} parameters; {} samples; global batch {} = {} ranks x {} micro steps of up to {}",
           numel, dataset.size(), train_.global_batch, ranks, plan.micro_steps(),
           train_.micro_batch);
  if (mesh_.branches() > 1) {
    log_info("{} branches of {} ranks each, on the same samples; this is branch {}",
             mesh_.branches(), ranks, mesh_.branch());
  }
  log_info("gradient buckets: {}, wire dtype {}, sharded over the ranks: {}{}",
           assembly_.engine.buckets(), dist_.wire_dtype, dist_.shard,
           dist_.paranoid ? "; every step is made a second time and compared" : "");
  if (ranks > 1) log_info("gradients are summed {}", summation_.to_text());
  if (const std::int64_t most = (train_.global_batch + ranks - 1) / ranks;
      train_.global_batch % ranks != 0) {
    log_common_warning(fmt::format(
        "train.global_batch = {} does not divide by {} ranks: some take {} samples of a step and "
        "some {}, which leaves {:.0f} % of the compute idle (a multiple of {} leaves none)",
        train_.global_batch, ranks, most, most - 1,
        100 * (1 - double(train_.global_batch) / double(most * ranks)), ranks));
  }
  log_debug("{} loader threads read up to {} micro batches ahead", loading.workers,
            loading.prefetch);

  mesh_.in_each_branch(
      [&] { assembly_.engine.require_same_parameters("at the start", ExitCode::environment); });
  if (grid_is_missing()) make_grid();  // the run was stopped before or while they were made

  if (counters.step + checkpoint_.every < train_.steps) saver_.prepare(assembly_.state().visitor());
  const std::string first_objective = assembly_.task->objectives().front().name;
  dist::StragglerWatch stragglers(world_, watch_.straggler_every);
  const double wall_before = counters.wall_s;
  double save_waits_s = saver_.waited_s();  // said in the line of a step so far
  const auto started = Clock::now();
  while (counters.step < train_.steps) {
    const Step step{counters.step};
    const dist::PhaseScope in_step(settings_.flight, dist::Phase::step, step.value);
    const auto step_started = Clock::now();
    const double waited_before = dist::waited_s(), saved_before = saver_.waited_s();
    double data_wait_s = 0;
    const auto next_batch = [&] {
      hold_->check();
      const auto wait_started = Clock::now();
      // Who cannot read on must not leave the others waiting inside their losses.
      data::Batch batch = assembly_.task->exchanges()
                              ? world_.agreed([&] { return loader_->next(); })
                              : loader_->next();
      data_wait_s += seconds_since(wait_started);
      return batch;
    };
    const double factor = schedule_factor(schedule_, step, train_.steps);
    const KindCounts kinds = count_kinds(dataset, sampler, plan.global_batch(step));
    faults_.at_step_begin(step, assembly_.engine.parameters());
    const StepInputs inputs{.step = step,
                            .draws = draws_,
                            .kinds = kinds,
                            .micro_steps = plan.micro_steps(),
                            .next_batch = next_batch,
                            .total_steps = train_.steps,
                            .bad_samples = bad_samples,
                            .stop = settings_.stop,
                            .exchange = *exchange_,
                            .mesh = mesh_.branches() > 1 ? &mesh_ : nullptr};
    const StepReport report = paranoid_ ? paranoid_->step(inputs) : assembly_.engine.step(inputs);
    const double save_wait_s = saver_.waited_s() - saved_before;
    const double own_s =
        seconds_since(step_started) - (dist::waited_s() - waited_before) - save_wait_s;
    stragglers.add(own_s + faults_.stretch(own_s));
    judge_skip(report);
    const ObjectiveReport& main_objective = report.objectives.front();

    ++counters.step;
    counters.position = counters.step * train_.global_batch;
    counters.wall_s = wall_before + seconds_since(started);
    counters.bad_samples = bad_samples.to_text();
    const double step_s = seconds_since(step_started);
    const double waited_for_saves_s = saver_.waited_s() - save_waits_s;
    save_waits_s = saver_.waited_s();
    if (settings_.job_end) settings_.job_end->took_step(step_s);
    if (recorder_) {
      recorder_->step({.step = step.value,
                       .samples = counters.position,
                       .loss = main_objective.loss,
                       .learning_rate = optim_.learning_rate * factor,
                       .grad_norm = main_objective.grad_norm,
                       .samples_per_s = double(train_.global_batch) / step_s,
                       .step_ms = 1e3 * step_s,
                       .data_wait_ms = 1e3 * data_wait_s,
                       .checkpoint_wait_ms = 1e3 * waited_for_saves_s,
                       .bad_samples = bad_samples.count(),
                       .further = further_numbers(report, first_objective),
                       .metrics = metrics_of(report, first_objective)});
    }
    const bool last = counters.step == train_.steps;
    if (report.stop && !last) {
      throw dist::AgreedError(ExitCode::preempted,
                              settings_.stop.requested()
                                  ? "stopped by " + signal_name(settings_.stop.signal())
                                  : "stopped, because a signal asked another rank to");
    }
    saver_.after_step();
    if (settings_.job_end) settings_.job_end->took_save(saver_.longest_save_s());
    if (due(dist_.verify_every, counters.step)) {
      mesh_.in_each_branch([&] {
        assembly_.engine.require_same_parameters(fmt::format("after step {}", step.value),
                                                 ExitCode::numbers);
      });
      log_debug("all ranks hold the same parameters after step {}", step.value);
    }
    if (due(checkpoint_.every, counters.step) && !last) save(SaveKind::periodic);
    if (due(sample_.every, counters.step) && !last) make_grid();
  }
  save(SaveKind::last);
  counters.wall_s = wall_before + seconds_since(started);
  loader_.reset();
  if (recorder_) recorder_->close();
}

void Trainer::judge_skip(const StepReport& report) {
  RunCounters& counters = assembly_.counters;
  if (report.not_finite().empty()) {
    counters.skips_in_row = 0;
    return;
  }
  if (train_.on_nonfinite == "stop")
    throw dist::AgreedError(ExitCode::numbers, report.not_finite());
  ++counters.skips_in_row;
  if (counters.skips_in_row > train_.max_skips) {
    throw dist::AgreedError(
        ExitCode::numbers,
        fmt::format("{} steps in a row changed nothing (train.max_skips = {}). The last: {}",
                    counters.skips_in_row, train_.max_skips, report.not_finite()));
  }
  log_common_warning(report.not_finite() + " The step is skipped.");
}

void Trainer::save(SaveKind kind) {
  TrainingState state = assembly_.state();
  saver_.save(state.visitor(), assembly_.counters.step, kind);
}

void Trainer::save_and_leave(const std::string& reason) {
  const std::int64_t step = assembly_.counters.step;
  try {
    if (step > 0) save(SaveKind::last);
  } catch (const Error& error) {  // what ends the run is the reason, not this
    if (error.code() != ExitCode::checkpoint) throw;
    if (world_.is_root()) log_error("{}", error.what());
  }
  if (saver_.newest().empty())
    log_info("{} at step {}; there is no checkpoint", reason, step);
  else
    log_info("{} at step {}; {} is whole, and the same command goes on from there", reason, step,
             saver_.newest().string());
}

std::filesystem::path default_run_directory(const configs::Recipe& recipe) {
  const auto run = recipe.section<RunOptions>("run");
  if (!run.name.empty()) return std::filesystem::path("runs") / run.name;
  return std::filesystem::path("runs") / std::filesystem::path(recipe.name()).stem();
}

}  // namespace trestle::trainers
