#include "data/sampler.h"
#include "launch/commands/command.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace trestle::launch {
namespace {

int validate(const RecipeArguments& arguments, int world) {
  const configs::Recipe recipe = arguments.load();
  // On the meta device the model has its names and shapes and no memory.
  const auto task = trainers::check_recipe(recipe, world);
  std::int64_t tensors = 0, numel = 0;
  for (const auto& group : task->groups()) {
    for (const auto& parameter : group.parameters) {
      ++tensors;
      numel += parameter.tensor.numel();
    }
  }
  const auto train = recipe.section<trainers::TrainOptions>("train");
  const data::BatchPlan plan(train.global_batch, train.micro_batch, 0, world);
  fmt::print("task        {}\n", recipe.section<trainers::RunOptions>("run").task);
  fmt::print("model       {} parameters in {} tensors\n", numel, tensors);
  for (const auto& [split, name] : {std::pair(trainers::Split::train, "training"),
                                    std::pair(trainers::Split::heldout, "held-out")}) {
    const data::Dataset& dataset = task->dataset(split);
    const data::SampleId first = 0;
    dataset.load(std::span(&first, 1));  // one sample must be readable
    fmt::print("data        {} {} samples\n", dataset.size(), name);
  }
  fmt::print("batch       {} samples a step = {} ranks x {} micro steps of up to {}\n",
             train.global_batch, world, plan.micro_steps(), train.micro_batch);
  fmt::print("run         {} steps in {}\n", train.steps,
             trainers::default_run_directory(recipe).string());
  fmt::print("{}: no problem found\n", recipe.name());
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
