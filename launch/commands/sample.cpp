#include "base/error.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "launch/commands/command.h"
#include "launch/signals.h"
#include "trainers/check_recipe.h"
#include "trainers/grid.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>

#include <filesystem>
#include <optional>

namespace trestle::launch {
namespace {

int sample(const dist::Communicator& world, StopToken stop, const std::string& given,
           const std::string& out, const std::vector<std::string>& sets) {
  const auto folder = world.agreed([&] { return checkpoint::folder_of_checkpoints(given); });
  std::optional<std::filesystem::path> chosen = given;
  if (folder) chosen = checkpoint::newest(world, *folder);
  const configs::Recipe recipe = world.agreed([&] {
    TRESTLE_REQUIRE_AS(checkpoint, chosen, "No checkpoint in {} is complete. Name another.",
                       folder->string());
    const auto manifest = checkpoint::read_manifest(*chosen);
    auto found = configs::Recipe::from_text(manifest.recipe_toml, chosen->string(), sets);
    trainers::check_recipe(found, world.size());
    return found;
  });
  stop_on(recipe.section<trainers::StopOptions>("train").stop_signals);
  bind_threads(world, recipe.section<trainers::DistOptions>("dist").threads);
  auto [task, mesh] = trainers::place_task(recipe, world);
  const auto collectives = dist::make_collectives(mesh.data());
  auto assembly = world.agreed([&, &task = task, &mesh = mesh] {
    return trainers::Assembly(recipe, std::move(task), *collectives, mesh.branch());
  });
  const auto load = [&](const std::filesystem::path& path) {
    trainers::TrainingState state = assembly.state();
    checkpoint::load(path, state.visitor());
  };
  if (folder) {  // another run's, perhaps one that goes on: nothing is renamed there
    chosen = checkpoint::load_newest(
        world, *folder, {.damaged = checkpoint::Damaged::leave, .way_out = "name another"}, load);
  } else {
    world.agreed([&] { load(*chosen); });
  }
  assembly.engine.publish();
  const auto options = recipe.section<trainers::SampleOptions>("sample");
  const trainers::Engine::Averaged averaged(assembly.engine, options.weights);
  const Draws draws(static_cast<std::uint64_t>(recipe.section<trainers::RunOptions>("run").seed));
  trainers::write_grid(*assembly.task, draws, mesh, options.pictures, out, stop);
  log_info("pictures of {}: {}", chosen->string(), out);
  return 0;
}

}  // namespace

void add_sample(CLI::App& app, Action& action) {
  auto* command =
      app.add_subcommand("sample", "make pictures from a checkpoint and the data its recipe names");
  auto from = std::make_shared<std::string>();
  auto out = std::make_shared<std::string>("sample.png");
  auto sets = std::make_shared<std::vector<std::string>>();
  command->add_option("from", *from, "a run directory (its newest checkpoint) or a checkpoint")
      ->required()
      ->type_name("RUN_DIR|CHECKPOINT");
  command->add_option("--out", *out, "the picture to write (default: sample.png)")
      ->type_name("FILE.png");
  command
      ->add_option("--set", *sets,
                   "override a key of the checkpoint's recipe: --set sample.steps=32")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->callback([=, &action] {
    action = [=] {
      return with_ranks([&](const dist::Communicator& world, StopToken stop, RunWatch&) {
        return sample(world, stop, *from, *out, *sets);
      });
    };
  });
}

}  // namespace trestle::launch
