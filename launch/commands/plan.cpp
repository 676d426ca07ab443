#include "trainers/plan.h"

#include "base/error.h"
#include "base/log.h"
#include "launch/commands/command.h"
#include "launch/commands/units.h"
#include "trainers/check_recipe.h"
#include "trainers/options.h"
#include "trainers/step_prediction.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace trestle::launch {
namespace {

using Json = nlohmann::ordered_json;
using trainers::Plan;
using trainers::StepPrediction;
using When = trainers::Transfer::When;

struct PlanArguments {
  RecipeArguments recipe;
  int world = 1;
  std::optional<int> hosts;
  std::string calibration_file;
  bool json = false;
};

/// A step's time, or why there is none.
struct Prediction {
  std::optional<StepPrediction> step;
  std::string why_not;
};

Prediction predict(const Plan& plan, const configs::Recipe& recipe, const std::string& file,
                   const std::optional<formats::Calibration>& calibration) {
  if (!calibration) {
    return {.step = {},
            .why_not =
                "no --calibration says what communication and computing cost here. Measure "
                "them with trestle bench comm --save and trestle bench step --save."};
  }
  std::string why_not = trainers::why_no_prediction(plan, *calibration);
  const auto compute = trainers::compute_from(plan, *calibration, recipe);
  if (why_not.empty()) why_not = compute.why_not;
  if (!why_not.empty()) return {.step = {}, .why_not = file + ": " + why_not};
  return {.step = trainers::predict(plan, compute.times, *calibration), .why_not = ""};
}

using Rows = std::vector<std::pair<const char*, std::int64_t>>;

Rows memory_rows(const Plan& plan) {
  const auto& memory = plan.memory;
  return {{"parameters", memory.parameters},  {"frozen", memory.frozen},
          {"masters", memory.masters},        {"gradients", memory.gradients},
          {"optimizer", memory.optimizer},    {"ema", memory.ema},
          {"buckets", memory.buckets},        {"data", memory.data},
          {"activations", memory.activations}};
}

bool is_unknown(const Plan& plan, std::string_view row) {
  return !plan.activation.unknown.empty() && (row == "activations" || row == "data");
}

Json to_json(const Plan& plan, const Prediction& prediction, const configs::Recipe& recipe) {
  Json memory;
  for (const auto& [name, bytes] : memory_rows(plan))
    memory[name] = is_unknown(plan, name) ? Json() : Json(bytes);
  memory["total"] = plan.memory.total_bytes();
  Json step;
  if (prediction.step) {
    const auto& p = *prediction.step;
    step = {{"forward_s", p.compute.forward_s},
            {"backward_s", p.compute.backward_s},
            {"optimizer_s", p.compute.optimizer_s},
            {"reduction_s", p.reduce_s},
            {"gather_s", p.gather_s},
            {"step_s", p.step_s},
            {"slow_step_s", p.slow_step_s ? Json(*p.slow_step_s) : Json()}};
  }
  return {{"format", "trestle plan"},
          {"version", 1},
          {"recipe", recipe.name()},
          {"world", plan.world()},
          {"hosts", plan.ranks.hosts()},
          {"levels", plan.two_level ? 2 : 1},
          {"parameters", plan.parameters},
          {"tensors", plan.tensors},
          {"samples_of_a_rank", plan.samples},
          {"micro_steps", plan.micro_steps},
          {"memory_bytes", memory},
          {"activations_unknown", plan.activation.unknown},
          {"sent_bytes",
           {{"reduction", plan.sent_bytes(When::reduction)},
            {"gather", plan.sent_bytes(When::gather)}}},
          {"sent_between_hosts_bytes",
           {{"reduction", plan.sent_between_hosts_bytes(When::reduction)},
            {"gather", plan.sent_between_hosts_bytes(When::gather)}}},
          {"checkpoint_bytes",
           {{"total", plan.checkpoint_total_bytes()}, {"ranks", plan.checkpoint_bytes}}},
          {"staging_bytes", plan.staging_bytes},
          {"updates_wait_for_disk", plan.updates_wait_for_disk},
          {"step", step},
          {"why_no_time", prediction.why_not}};
}

void print_memory(const Plan& plan) {
  const bool known = plan.activation.unknown.empty();
  fmt::print("memory      {} of tensors on each rank{}\n", bytes_text(plan.memory.total_bytes()),
             known ? "" : ", and what is not known");
  for (const auto& [name, bytes] : memory_rows(plan)) {
    if (is_unknown(plan, name))
      fmt::print("  {:<12}{:>10}\n", name, "?");
    else if (bytes > 0)
      fmt::print("  {:<12}{:>10}\n", name, bytes_text(bytes));
  }
  if (!known) fmt::print("  {}\n", plan.activation.unknown);
}

void print_plan(const Plan& plan, const Prediction& prediction, const configs::Recipe& recipe) {
  const auto train = recipe.section<trainers::TrainOptions>("train");
  fmt::print("recipe      {}: {} parameters in {} tensors\n", recipe.name(), plan.parameters,
             plan.tensors);
  fmt::print("batch       {} samples a step = {} ranks x {} micro steps of up to {}\n",
             train.global_batch, plan.world(), plan.micro_steps, train.micro_batch);
  print_memory(plan);
  fmt::print("wire        {} a step from each rank: {} of gradients, {} of parameters\n",
             bytes_text(plan.sent_bytes(When::reduction) + plan.sent_bytes(When::gather)),
             bytes_text(plan.sent_bytes(When::reduction)),
             bytes_text(plan.sent_bytes(When::gather)));
  if (plan.ranks.hosts() > 1) {
    fmt::print("            {} from each host to others: {}, in {}\n",
               bytes_text(plan.sent_between_hosts_bytes(When::reduction) +
                          plan.sent_between_hosts_bytes(When::gather)),
               plan.ranks.to_text(), plan.two_level ? "two levels" : "one level");
  }
  fmt::print("checkpoint  {} of tensors, up to {} a rank\n",
             bytes_text(plan.checkpoint_total_bytes()),
             bytes_text(std::ranges::max(plan.checkpoint_bytes)));
  fmt::print(
      "            saving takes {} of host memory on a rank{}\n", bytes_text(plan.staging_bytes),
      plan.updates_wait_for_disk
          ? ": less than it saves (checkpoint.staging_bytes), so the step after a save waits "
            "until the rest is written"
          : "");
  if (!prediction.step) {
    fmt::print("step        no time: {}\n", prediction.why_not);
    return;
  }
  const auto& p = *prediction.step;
  fmt::print("step        {}: forward {}, backward {}, optimizer {}, reduction {}, gather {}\n",
             time_text(p.step_s), time_text(p.compute.forward_s), time_text(p.compute.backward_s),
             time_text(p.compute.optimizer_s), time_text(p.reduce_s), time_text(p.gather_s));
  if (p.slow_step_s) {
    fmt::print("            {} where the links are in the slow of their two modes\n",
               time_text(*p.slow_step_s));
  }
}

/// As --hosts says, or as the calibration was measured.
int hosts_of(const PlanArguments& arguments,
             const std::optional<formats::Calibration>& calibration) {
  if (arguments.hosts) return *arguments.hosts;
  const bool same_ranks = calibration && calibration->world == arguments.world;
  return same_ranks ? std::max<int>(1, std::ssize(calibration->hosts)) : 1;
}

int plan(const PlanArguments& arguments) {
  const configs::Recipe recipe = arguments.recipe.load();
  const auto task = trainers::check_recipe(recipe, arguments.world);
  if (const int branches = task->branches(); branches > 1)
    log_info("{} ranks in {} branches: the plan is that of a rank in the first one",
             arguments.world, branches);
  std::optional<formats::Calibration> calibration;
  if (!arguments.calibration_file.empty())
    calibration = formats::read_calibration(arguments.calibration_file);
  const int hosts = hosts_of(arguments, calibration);
  TRESTLE_REQUIRE(hosts <= arguments.world,
                  "--hosts {} is more than --world {} (every host has a rank). Say how many hosts "
                  "the ranks are on.",
                  hosts, arguments.world);
  const Plan made =
      trainers::make_plan(recipe, *task, trainers::hosts_of_ranks(arguments.world, hosts));
  const Prediction prediction = predict(made, recipe, arguments.calibration_file, calibration);
  if (arguments.json)
    fmt::print("{}\n", to_json(made, prediction, recipe).dump(1));
  else
    print_plan(made, prediction, recipe);
  return static_cast<int>(ExitCode::done);
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "plan", "what a recipe needs on N ranks: memory, bytes on the wire, checkpoint, step time");
  auto arguments = std::make_shared<PlanArguments>();
  arguments->recipe.add_to(*command);
  command->add_option("--world", arguments->world, "number of ranks it will run on")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20))
      ->required();
  command
      ->add_option(
          "--hosts", arguments->hosts,
          "on so many hosts, as many ranks on each (default: those of --calibration, or 1)")
      ->type_name("H")
      ->check(CLI::Range(1, 1 << 20));
  command
      ->add_option("--calibration", arguments->calibration_file,
                   "what collectives and computing cost there, for the step's time (trestle bench "
                   "comm --save, then trestle bench step --calibration ... --save)")
      ->type_name("FILE");
  command->add_flag("--json", arguments->json, "for programs");
  command->footer(
      "Makes no weights and needs no MPI: any machine will do. It reads a few training samples "
      "for\n"
      "their shapes; without the data, what activations take is not known and is said so.\n"
      "Memory is that of tensors; the program, MPI and kernels' scratch space come on top.");
  command->callback([arguments, &action] { action = [arguments] { return plan(*arguments); }; });
}

}  // namespace trestle::launch
