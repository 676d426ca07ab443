#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/median.h"
#include "dist/binding.h"
#include "launch/commands/command.h"
#include "launch/commands/units.h"
#include "launch/signals.h"
#include "trainers/check_recipe.h"
#include "trainers/options.h"
#include "trainers/step_benchmark.h"
#include "trainers/step_prediction.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace trestle::launch {
namespace {

using Json = nlohmann::ordered_json;
using trainers::StepMeasurement;
using trainers::StepPrediction;
using trainers::StepTimes;

constexpr int kResultVersion = 1;

struct StepArguments {
  RecipeArguments recipe;
  trainers::StepBenchmarkOptions options;
  std::string calibration_file, save_file, trace_file;
  bool json = false;
};

/// What is known before and after the measurement.
struct Result {
  trainers::Plan plan;
  StepMeasurement measured;
  std::optional<StepPrediction> predicted;
  std::string why_not;  ///< there is no prediction
  std::filesystem::path trace_file;
};

/// The slowest rank's, with the optimizer's time for the part of the state that a rank holds.
trainers::ComputeTimes slowest_alone(const Result& result) {
  trainers::ComputeTimes slowest;
  for (const auto& rank : result.measured.ranks) {
    slowest.forward_s = std::max(slowest.forward_s, rank.alone.forward_s);
    slowest.backward_s = std::max(slowest.backward_s, rank.alone.backward_s);
  }
  slowest.optimizer_s =
      result.measured.compute.optimizer_s_per_element * double(result.plan.held_elements);
  return slowest;
}

void predict(Result& result, const std::optional<formats::Calibration>& calibration) {
  if (!calibration) {
    result.why_not =
        "no --calibration says what collectives cost between these ranks. Measure "
        "it with trestle bench comm --save FILE.";
    return;
  }
  result.why_not = trainers::why_no_prediction(result.plan, *calibration);
  if (result.why_not.empty())
    result.predicted = trainers::predict(result.plan, slowest_alone(result), *calibration);
}

double hidden_share(const StepTimes& parts) {
  return parts.communication_s > 0 ? parts.hidden_s / parts.communication_s : 0;
}

Json to_json(const StepTimes& parts) {
  return {{"step_s", parts.step_s},
          {"compute_s", parts.forward_s + parts.backward_s},
          {"forward_s", parts.forward_s},
          {"backward_s", parts.backward_s},
          {"optimizer_s", parts.optimizer_s},
          {"exposed_s", parts.exposed_s},
          {"data_wait_s", parts.data_wait_s},
          {"other_s", parts.other_s},
          {"communication_s", parts.communication_s},
          {"hidden_share", parts.communication_s > 0 ? Json(hidden_share(parts)) : Json()}};
}

Json to_json(const trainers::ComputeTimes& times) {
  return {{"forward_s", times.forward_s},
          {"backward_s", times.backward_s},
          {"optimizer_s", times.optimizer_s}};
}

Json to_json(const Result& result, const configs::Recipe& recipe, const StepArguments& arguments) {
  Json file = {{"format", "trestle bench step"},
               {"version", kResultVersion},
               {"recipe", recipe.name()},
               {"world", result.plan.world()},
               {"levels", result.plan.two_level ? 2 : 1},
               {"steps", arguments.options.steps},
               {"warm_up", arguments.options.warm_up},
               {"shard", recipe.section<trainers::DistOptions>("dist").shard},
               {"wire_dtype", recipe.section<trainers::DistOptions>("dist").wire_dtype},
               {"samples_per_s", result.measured.samples_per_s},
               {"median", to_json(result.measured.median)},
               {"alone", to_json(slowest_alone(result))}};
  for (const auto& [median_s, steps] : result.measured.modes)
    file["modes"].push_back({{"median_s", median_s}, {"steps", steps}});
  for (const auto& rank : result.measured.ranks) {
    file["ranks"].push_back({{"host", rank.host},
                             {"samples", rank.samples},
                             {"median", to_json(rank.median)},
                             {"tensor_bytes", rank.tensor_bytes}});
  }
  file["planned_tensor_bytes"] =
      result.plan.activation.unknown.empty() ? Json(result.plan.memory.total_bytes()) : Json();
  file["predicted"] = Json();
  if (result.predicted) {
    file["predicted"] = {
        {"step_s", result.predicted->step_s},
        {"reduction_s", result.predicted->reduce_s},
        {"gather_s", result.predicted->gather_s},
        {"slow_step_s",
         result.predicted->slow_step_s ? Json(*result.predicted->slow_step_s) : Json()}};
  }
  file["why_no_prediction"] = result.why_not;
  file["trace"] = result.trace_file.string();
  return file;
}

void print(const Result& result, const configs::Recipe& recipe, const StepArguments& arguments) {
  const StepTimes& parts = result.measured.median;
  fmt::print("{} on {} ranks: medians of {} steps after {} to warm up, of the ranks' mean\n",
             recipe.name(), result.plan.world(), arguments.options.steps,
             arguments.options.warm_up);
  const auto row = [&](const char* name, double seconds, const std::string& more) {
    fmt::print("  {:<16}{:>10}{:>7.1f} %  {}\n", name, time_text(seconds),
               100 * seconds / parts.step_s, more);
  };
  const auto alone = slowest_alone(result);
  const auto beside = [](double seconds) { return fmt::format("alone {}", time_text(seconds)); };
  row("step", parts.step_s, fmt::format("{:.4g} samples/s", result.measured.samples_per_s));
  if (result.measured.modes.size() == 2) {
    const Mode &fast = result.measured.modes[0], &slow = result.measured.modes[1];
    fmt::print("  in two modes: {} steps of about {}, {} of about {}\n", fast.count,
               time_text(fast.median), slow.count, time_text(slow.median));
  }
  row("forward", parts.forward_s, beside(alone.forward_s));
  row("backward", parts.backward_s, beside(alone.backward_s));
  row("optimizer", parts.optimizer_s, beside(alone.optimizer_s));
  row("exposed comm.", parts.exposed_s,
      parts.communication_s > 0
          ? fmt::format("{} under way, {:.0f} % of it hidden", time_text(parts.communication_s),
                        100 * hidden_share(parts))
          : "");
  row("data wait", parts.data_wait_s, "");
  row("other", parts.other_s, "");
  if (result.predicted) {
    const auto& p = *result.predicted;
    fmt::print("predicted       {:>12}{:>+7.1f} %  reduction {}, gather {}\n", time_text(p.step_s),
               100 * (p.step_s / parts.step_s - 1), time_text(p.reduce_s), time_text(p.gather_s));
    if (p.slow_step_s) {
      fmt::print("                {:>12}           with links in the slow of their two modes\n",
                 time_text(*p.slow_step_s));
    }
  } else {
    fmt::print("predicted       nothing: {}\n", result.why_not);
  }
  std::int64_t most = 0;
  for (const auto& rank : result.measured.ranks) most = std::max(most, rank.tensor_bytes);
  fmt::print("tensors         {:>12}  {}\n", bytes_text(most),
             result.plan.activation.unknown.empty()
                 ? "planned " + bytes_text(result.plan.memory.total_bytes())
                 : "not planned: " + result.plan.activation.unknown);
  fmt::print("trace           {} (open it in chrome://tracing or draw it with tools/plot_trace)\n",
             result.trace_file.string());
}

/// What the next plan predicts from.
void save_calibration(const std::string& file, std::optional<formats::Calibration> calibration,
                      const Result& result) {
  if (!calibration) {
    calibration.emplace(formats::Calibration{.world = result.plan.world(),
                                             .levels = result.plan.two_level ? 2 : 1});
    for (const auto& rank : result.measured.ranks) {
      auto& hosts = calibration->hosts;
      const auto found = std::ranges::find(hosts, rank.host, &formats::Calibration::Host::name);
      if (found == hosts.end())
        hosts.push_back({.name = rank.host, .ranks = 1});
      else
        ++found->ranks;
    }
  }
  calibration->compute = result.measured.compute;
  write_file_atomic(file, formats::to_text(*calibration), ExitCode::environment);
}

void write_trace(const std::filesystem::path& file, const std::string& trace) {
  std::error_code failure;
  if (!file.parent_path().empty()) std::filesystem::create_directories(file.parent_path(), failure);
  write_file_atomic(file, trace, ExitCode::environment);
}

int bench_step(const dist::Communicator& world, StopToken stop, StepArguments arguments) {
  std::optional<formats::Calibration> calibration;
  std::unique_ptr<trainers::Task> task;
  const configs::Recipe recipe = world.agreed([&] {
    configs::Recipe found = arguments.recipe.load();
    task = trainers::check_recipe(found, world.size());
    if (!arguments.calibration_file.empty())
      calibration = formats::read_calibration(arguments.calibration_file);
    if (calibration && !arguments.save_file.empty()) {
      TRESTLE_REQUIRE(
          calibration->world == world.size(),
          "--save keeps what --calibration {} says of collectives between {} ranks, and "
          "these are {} (what is measured together belongs together). Leave one of the "
          "options out, or start as many ranks.",
          arguments.calibration_file, calibration->world, world.size());
    }
    return found;
  });
  set_log_level_by_name(recipe.section<trainers::LogOptions>("log").level);
  stop_on(recipe.section<trainers::StopOptions>("train").stop_signals);
  bind_threads(world, recipe.section<trainers::DistOptions>("dist").threads);
  arguments.options.stop = stop;

  Result result;
  const auto hosts = world.all_gather_bytes(dist::host_name());
  result.plan = world.agreed([&] { return trainers::make_plan(recipe, *task, hosts); });
  task.reset();
  result.measured = trainers::measure_steps(recipe, world, arguments.options);
  predict(result, calibration);
  result.trace_file = arguments.trace_file.empty()
                          ? trainers::default_run_directory(recipe) / "traces" / "bench_step.json"
                          : std::filesystem::path(arguments.trace_file);
  world.agreed([&] {
    if (!world.is_root()) return;
    write_trace(result.trace_file, result.measured.trace);
    if (!arguments.save_file.empty()) save_calibration(arguments.save_file, calibration, result);
    if (arguments.json)
      fmt::print("{}\n", to_json(result, recipe, arguments).dump(1));
    else
      print(result, recipe, arguments);
    std::fflush(stdout);
  });
  return static_cast<int>(ExitCode::done);
}

}  // namespace

void add_bench_step(CLI::App& bench, Action& action) {
  auto* command = bench.add_subcommand(
      "step", "train a recipe's first steps and say where their time goes; nothing is saved");
  auto arguments = std::make_shared<StepArguments>();
  arguments->recipe.add_to(*command);
  command->add_option("--steps", arguments->options.steps, "measured steps")
      ->type_name("K")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--warm-up", arguments->options.warm_up, "steps before them")
      ->type_name("K")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command
      ->add_option(
          "--calibration", arguments->calibration_file,
          "what trestle bench comm --save measured between as many ranks: the step is then "
          "predicted, too")
      ->type_name("FILE");
  command
      ->add_option("--save", arguments->save_file,
                   "the calibration with this recipe's compute times, for trestle plan")
      ->type_name("FILE");
  command
      ->add_option("--trace", arguments->trace_file,
                   "the steps as a Chrome trace (default: traces/bench_step.json in the recipe's "
                   "run directory)")
      ->type_name("FILE");
  command->add_flag("--json", arguments->json, "for programs");
  command->footer(
      "Start it as you start training: mpirun -n 4 trestle bench step RECIPE.toml, or srun ...\n"
      "First every rank computes alone, without communication; then all train together.\n"
      "forward, backward, optimizer, exposed comm., data wait and other add up to the step.");
  command->callback([arguments, &action] {
    action = [arguments] {
      return with_ranks([&](const dist::Communicator& world, StopToken stop, RunWatch&) {
        return bench_step(world, stop, *arguments);
      });
    };
  });
}

}  // namespace trestle::launch
