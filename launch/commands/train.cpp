#include "base/log.h"
#include "launch/commands/command.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>

namespace trestle::launch {

void add_train(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("train", "train what a recipe describes, or resume it");
  auto recipe = std::make_shared<RecipeArguments>();
  auto run_dir = std::make_shared<std::string>();
  recipe->add_to(*command);
  command
      ->add_option("--run-dir", *run_dir,
                   "where the run lives (default: runs/<name of the recipe>)")
      ->type_name("DIR");
  command->footer(
      "Start one process a rank: mpirun -n 4 trestle train RECIPE.toml, or srun --mpi=pmix ...\n"
      "Starting it again in the same run directory resumes from the newest checkpoint.");
  command->callback([recipe, run_dir, &action] {
    action = [recipe, run_dir] {
      return with_ranks([&](const dist::Communicator& world) {
        const configs::Recipe loaded = world.agreed([&] {
          configs::Recipe found = recipe->load();
          trainers::check_recipe(found, world.size());
          return found;
        });
        set_log_level_by_name(loaded.section<trainers::LogOptions>("log").level);
        const trainers::RunDirectory directory(run_dir->empty()
                                                   ? trainers::default_run_directory(loaded)
                                                   : std::filesystem::path(*run_dir));
        world.agreed([&] {
          directory.create();
          set_log_file(directory.log(world.rank()).string());
        });
        bind_threads(world, loaded.section<trainers::DistOptions>("dist").threads);
        trainers::Trainer(loaded, world, directory).run();
        return 0;
      });
    };
  });
}

}  // namespace trestle::launch
