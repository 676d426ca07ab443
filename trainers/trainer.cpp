#include "trainers/trainer.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "formats/jsonl.h"
#include "trainers/grid.h"
#include "trainers/metrics/progress.h"

#include <ATen/ATen.h>

#include <chrono>
#include <fstream>
#include <optional>

namespace trestle::trainers {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Resident memory of this process, in bytes.
std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t pages = 0, resident = 0;
  statm >> pages >> resident;
  return resident * 4096;
}

std::vector<NamedParameter> parameters_of(Task& task, bool only_averaged) {
  std::vector<NamedParameter> parameters;
  for (const auto& group : task.groups()) {
    if (only_averaged && !group.ema) continue;
    parameters.insert(parameters.end(), group.parameters.begin(), group.parameters.end());
  }
  return parameters;
}

Objective only_objective(Task& task) {
  const auto objectives = task.objectives();
  TRESTLE_ASSERT(objectives.size() == 1, "{} objectives; the plain step knows one",
                 objectives.size());
  return objectives.front();
}

bool due(std::int64_t every, std::int64_t done) { return every > 0 && done % every == 0; }

}  // namespace

Assembly::Assembly(const configs::Recipe& recipe, Materialise materialise)
    : task(task_kind_of(recipe).make(recipe, materialise)),
      objective(only_objective(*task)),
      parameters(parameters_of(*task, /*only_averaged=*/false)),
      optimizer(parameters, recipe.section<AdamWOptions>("optim")),
      ema(parameters_of(*task, /*only_averaged=*/true), recipe.section<EmaOptions>("ema")) {}

TrainingState Assembly::state() {
  return {.parameters = parameters,
          .optimizer = optimizer,
          .ema = ema,
          .task = *task,
          .counters = counters};
}

Trainer::Trainer(const configs::Recipe& recipe, const dist::Communicator& world,
                 RunDirectory directory)
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
      checkpoint_(recipe.section<CheckpointOptions>("checkpoint")),
      sample_(recipe.section<SampleOptions>("sample")),
      log_(recipe.section<LogOptions>("log")),
      draws_(static_cast<std::uint64_t>(run_.seed)),
      assembly_(world.agreed([&] { return Assembly(recipe, Materialise::weights); })),
      collectives_(dist::make_collectives(world)) {}

void Trainer::run() {
  world_.agreed([&] {
    if (!world_.is_root()) return;
    directory_.create();
    checkpoint::remove_leftovers(directory_.checkpoints());
  });
  resume();

  if (assembly_.counters.step >= train_.steps && std::filesystem::exists(directory_.summary())) {
    log_info(
        "the run in {} is complete: {} of {} steps done (remove the folder, choose another "
        "--run-dir or raise train.steps to train again)",
        directory_.root().string(), assembly_.counters.step, train_.steps);
    return;
  }
  world_.agreed([&] {
    if (!world_.is_root()) return;
    write_file_atomic(directory_.resolved_recipe(), resolved_, ExitCode::environment);
    directory_.rewind_metrics(assembly_.counters.step);
  });
  train();
  finish();
}

void Trainer::resume() {
  const auto found = checkpoint::newest(world_, directory_.checkpoints());
  if (!found) return;
  world_.agreed([&] {
    TrainingState state = assembly_.state();
    checkpoint::load(*found, state.visitor());
  });
  saved_step_ = assembly_.counters.step;
  log_info("resumed from {} at step {}", found->string(), assembly_.counters.step);
  const checkpoint::Manifest manifest = checkpoint::read_manifest(*found);
  if (manifest.recipe_hash != digest_128(resolved_)) {
    log_warn("the recipe differs from the one the checkpoint was made with ({} has the new one)",
             directory_.resolved_recipe().string());
  }
}

void Trainer::train() {
  RunCounters& counters = assembly_.counters;
  if (counters.step >= train_.steps) return;

  const data::Dataset& dataset =
      *world_.agreed([&] { return &assembly_.task->dataset(Split::train); });
  const data::Sampler sampler(draws_.seed(), dataset.size());
  const data::BatchPlan plan(train_.global_batch, train_.micro_batch, world_.rank(), world_.size());
  const auto loading = recipe_.section<data::LoaderOptions>("data");
  data::Loader loader(dataset, sampler, plan, Step{counters.step}, loading);
  StepParts parts{.task = *assembly_.task,
                  .objective = assembly_.objective,
                  .parameters = assembly_.parameters,
                  .collectives = *collectives_,
                  .optimizer = assembly_.optimizer,
                  .ema = assembly_.ema,
                  .max_grad_norm = train_.max_grad_norm,
                  .buckets = plan_buckets(assembly_.parameters, dist_.bucket_bytes)};

  std::int64_t numel = 0;
  for (const auto& parameter : assembly_.parameters) numel += parameter.tensor.numel();
  log_info(
      "{} parameters, gradient buckets: {}; {} samples; global batch {} = {} ranks x {} micro "
      "steps of "
      "up to {}",
      numel, parts.buckets.size(), dataset.size(), train_.global_batch, world_.size(),
      plan.micro_steps(), train_.micro_batch);
  log_debug("{} loader threads read up to {} micro batches ahead", loading.workers,
            loading.prefetch);

  std::optional<Progress> progress;
  std::optional<formats::JsonlWriter> metrics;
  world_.agreed([&] {
    if (!world_.is_root()) return;
    progress.emplace("train", "steps", counters.step, train_.steps, log_.every);
    metrics.emplace(directory_.metrics());
  });

  const double wall_before = counters.wall_s;
  const auto started = Clock::now();
  while (counters.step < train_.steps) {
    const Step step{counters.step};
    const auto step_started = Clock::now();
    double data_wait_s = 0;
    const auto next_batch = [&] {
      const auto wait_started = Clock::now();
      data::Batch batch = loader.next();
      data_wait_s += seconds_since(wait_started);
      return batch;
    };
    const double learning_rate =
        optim_.learning_rate * schedule_factor(schedule_, step, train_.steps);
    const KindCounts kinds = count_kinds(dataset, sampler, plan.global_batch(step));
    const StepReport report =
        plain_step(parts, step, draws_, kinds, plan.micro_steps(), next_batch, learning_rate);

    ++counters.step;
    counters.position = counters.step * train_.global_batch;
    counters.wall_s = wall_before + seconds_since(started);
    const double step_s = seconds_since(step_started);
    if (metrics) {
      metrics->append({{"step", step.value},
                       {"samples", counters.position},
                       {"loss", report.loss},
                       {"lr", learning_rate},
                       {"grad_norm", report.grad_norm},
                       {"samples_per_s", double(train_.global_batch) / step_s},
                       {"step_ms", 1e3 * step_s},
                       {"data_wait_ms", 1e3 * data_wait_s},
                       {"rss_bytes", resident_bytes()}});
    }
    if (progress) {
      progress->update(counters.step,
                       fmt::format("loss {:.4f} | lr {:.2e} | {:.1f} samples/s", report.loss,
                                   learning_rate, double(train_.global_batch) / step_s));
    }
    const bool last = counters.step == train_.steps;
    if (due(checkpoint_.every, counters.step) && !last) save();
    if (due(sample_.every, counters.step) && !last) make_grid();
  }
  save();
  counters.wall_s = wall_before + seconds_since(started);
}

void Trainer::save() {
  if (saved_step_ == assembly_.counters.step) return;
  TrainingState state = assembly_.state();
  checkpoint::save(world_, checkpoint::collect(state.visitor()),
                   {.folder = directory_.checkpoints(),
                    .step = assembly_.counters.step,
                    .recipe_toml = resolved_,
                    .recipe_hash = digest_128(resolved_)});
  saved_step_ = assembly_.counters.step;
}

void Trainer::make_grid() {
  const Ema::Applied averaged(assembly_.ema);
  const auto file = directory_.sample(assembly_.counters.step);
  write_grid(*assembly_.task, draws_, world_, sample_.pictures, file);
  log_info("pictures: {}", file.string());
}

void Trainer::finish() {
  make_grid();
  const RunCounters& counters = assembly_.counters;
  std::map<std::string, double> summary = {
      {"steps", double(counters.step)},
      {"samples_per_s", double(counters.position) / counters.wall_s},
      {"wall_s", counters.wall_s}};
  const Ema::Applied averaged(assembly_.ema);
  for (const auto& job : assembly_.task->jobs()) {
    std::optional<Progress> progress;
    std::int64_t done = 0;
    const std::int64_t mine = (job->size() + world_.size() - 1) / world_.size();
    if (world_.is_root()) progress.emplace(std::string(job->name()), "items", 0, mine, mine);
    JobContext context{.world = world_,
                       .draws = draws_,
                       .advance =
                           [&](std::int64_t items) {
                             done += items;
                             if (progress) progress->update(done, "");
                           },
                       .results = {}};
    run_job(*job, context);
    summary.merge(context.results);
  }
  world_.agreed([&] {
    if (world_.is_root()) directory_.write_summary(summary);
  });
  log_info("summary ({}):", directory_.summary().string());
  for (const auto& [name, value] : summary) log_info("  {:<24} {:.6g}", name, value);
}

std::filesystem::path default_run_directory(const configs::Recipe& recipe) {
  const auto run = recipe.section<RunOptions>("run");
  if (!run.name.empty()) return std::filesystem::path("runs") / run.name;
  return std::filesystem::path("runs") / std::filesystem::path(recipe.name()).stem();
}

std::unique_ptr<Task> check_recipe(const configs::Recipe& recipe, int world) {
  recipe.check(schema_of(recipe));
  const auto train = recipe.section<TrainOptions>("train");
  if (train.global_batch < world) {
    throw recipe.error_at(
        "train.global_batch",
        fmt::format(
            "train.global_batch = {} is less than the {} ranks (every rank needs a sample of "
            "each step). Raise it, or start fewer ranks.",
            train.global_batch, world));
  }
  return task_kind_of(recipe).make(recipe, Materialise::meta);
}

}  // namespace trestle::trainers
