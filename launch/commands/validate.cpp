#include "base/log.h"
#include "base/terminal.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "data/scan.h"
#include "launch/commands/command.h"
#include "trainers/check_recipe.h"
#include "trainers/metrics/progress.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <thread>

namespace trestle::launch {
namespace {

constexpr std::int64_t kBadShown = 20;

/// Reads every sample and says which are bad; returns how many.
std::int64_t check_samples(const data::Dataset& dataset, std::string_view name) {
  const std::int64_t size = dataset.size();
  std::optional<trainers::Progress> progress;
  const auto started = std::chrono::steady_clock::now();
  const auto show = [&](std::int64_t done) {
    const bool long_enough = std::chrono::steady_clock::now() - started > std::chrono::seconds(1);
    if (!progress && long_enough && stderr_is_terminal()) {
      progress.emplace(fmt::format("read {}", name), "samples", done, size, size);
    }
    if (progress) progress->update(done, "");
  };
  const auto threads = static_cast<int>(std::thread::hardware_concurrency());
  const data::ScanReport report = data::scan(dataset, threads, kBadShown, show);
  progress.reset();
  for (const auto& [id, reason] : report.first) log_warn("{}", reason);
  if (report.bad > kBadShown) {
    log_warn("and {} more {} samples cannot be used", report.bad - kBadShown, name);
  }
  fmt::print("data        {} {} samples, {} bad\n", size, name, report.bad);
  return report.bad;
}

/// Reads both lists whole. Throws where a run would have to stop; true if samples are bad.
bool check_data(trainers::Task& task, std::int64_t max_bad) {
  const auto& training = task.dataset(trainers::Split::train);
  const auto& heldout = task.dataset(trainers::Split::heldout);
  const std::int64_t training_bad = check_samples(training, "training");
  const std::int64_t heldout_bad = check_samples(heldout, "held-out");
  std::string problems;
  if (training_bad > max_bad || training_bad == training.size()) {
    problems += fmt::format(
        "{} of {} training samples cannot be used (data.max_bad = {} may be replaced, by good "
        "ones). "
        "Repair them, take them off the list, or raise data.max_bad.",
        training_bad, training.size(), max_bad);
  }
  if (heldout_bad > 0) {
    problems += fmt::format(
        "{}{} of {} held-out samples cannot be used (errors and pictures are of fixed samples, so "
        "none is replaced). Repair them, or take them off the list.",
        problems.empty() ? "" : "\n", heldout_bad, heldout.size());
  }
  if (!problems.empty()) throw Error(ExitCode::data, problems);
  if (training_bad > 0) {
    log_warn("{} bad training samples (see above) will be replaced by the next readable ones",
             training_bad);
  }
  return training_bad > 0;
}

void print_model(trainers::Task& task, const std::string& of) {
  std::int64_t tensors = 0, numel = 0;
  for (const auto& group : task.groups()) {
    for (const auto& parameter : group.parameters) {
      ++tensors;
      numel += parameter.tensor.numel();
    }
  }
  fmt::print("model       {} parameters in {} tensors{}\n", numel, tensors, of);
}

int validate(const RecipeArguments& arguments, int world) {
  const configs::Recipe recipe = arguments.load();
  // On the meta device the model has its names and shapes and no memory.
  const auto task = trainers::check_recipe(recipe, world);
  const int branches = task->branches(), ranks = world / branches;
  const auto train = recipe.section<trainers::TrainOptions>("train");
  const data::BatchPlan plan(train.global_batch, train.micro_batch, 0, ranks);
  fmt::print("task        {}\n", recipe.section<trainers::RunOptions>("run").task);
  for (int branch = 0; branch < branches; ++branch) {
    const std::string of = branches > 1 ? fmt::format(" (branch {} of {})", branch, branches) : "";
    print_model(
        branch == 0 ? *task : *trainers::make_task(recipe, trainers::Materialise::meta, branch),
        of);
  }
  fmt::print("batch       {} samples a step = {} ranks x {} micro steps of up to {}\n",
             train.global_batch, ranks, plan.micro_steps(), train.micro_batch);
  fmt::print("run         {} steps in {}\n", train.steps,
             trainers::default_run_directory(recipe).string());
  const bool bad = check_data(*task, recipe.section<data::LoaderOptions>("data").max_bad);
  fmt::print("{}: {}\n", recipe.name(), bad ? "nothing that stops a run" : "no problem found");
  return 0;
}

}  // namespace

void add_validate(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "validate", "find what is wrong with a recipe and its data, without training");
  auto recipe = std::make_shared<RecipeArguments>();
  auto world = std::make_shared<int>(1);
  recipe->add_to(*command);
  command->add_option("--world", *world, "number of ranks it will run on")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  command->callback(
      [recipe, world, &action] { action = [recipe, world] { return validate(*recipe, *world); }; });
}

}  // namespace trestle::launch
