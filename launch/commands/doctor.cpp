#include "launch/doctor/doctor.h"

#include "base/error.h"
#include "base/log.h"
#include "dist/launch_check.h"
#include "launch/commands/command.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

namespace trestle::launch {
namespace {

struct DoctorArguments {
  std::string run_dir, recipe;
  std::vector<std::string> sets;
  bool json = false;
};

int examine(const dist::Communicator& world, const DoctorArguments& arguments,
            const std::string& refusal) {
  doctor::Examination what{.run_directory = arguments.run_dir, .refusal = refusal};
  world.agreed([&] {
    if (!arguments.recipe.empty())
      what.recipe = configs::Recipe::load(arguments.recipe, arguments.sets);
    if (!arguments.run_dir.empty()) return;
    what.run_directory = what.recipe ? trainers::default_run_directory(*what.recipe) : "runs";
  });
  const doctor::Report report = doctor::examine(world, what);
  if (world.is_root()) {
    fmt::print("{}", arguments.json ? doctor::to_json(report.findings, world.size(), report.hosts)
                                    : doctor::table(report.findings));
    std::fflush(stdout);
  }
  const bool well = doctor::worst(report.findings) != doctor::Health::fail;
  const bool all_well = !world.broadcast_bytes(well ? "well" : "", 0).empty();
  return static_cast<int>(all_well ? ExitCode::done : ExitCode::environment);
}

/// Of processes that do not find each other: the first speaks for all.
bool speaks() {
  const auto is_zero = [](const char* variable) {
    const auto rank = dist::process_environment(variable);
    return !rank || *rank == "0";
  };
  return is_zero("OMPI_COMM_WORLD_RANK") && is_zero("SLURM_PROCID");
}

int see_doctor(const DoctorArguments& arguments) {
  bool started = false;
  try {
    return with_ranks([&](const dist::Communicator& world, StopToken, RunWatch&) {
      started = true;
      return examine(world, arguments, "");
    });
  } catch (const Error& error) {
    if (started || error.code() != ExitCode::environment) throw;
    // The launcher and MPI did not meet. That is what a doctor is for.
    if (!speaks()) return static_cast<int>(ExitCode::environment);
    set_log_rank(0, 1);
    return examine(dist::Communicator::self(), arguments, error.what());
  }
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "doctor", "whether this machine, launcher and file system are fit for a run");
  auto arguments = std::make_shared<DoctorArguments>();
  command
      ->add_option("--run-dir", arguments->run_dir,
                   "where the run will live (default: the recipe's, or runs/)")
      ->type_name("DIR");
  auto* recipe = command
                     ->add_option("--recipe", arguments->recipe,
                                  "what will be run: memory, threads and room are judged for it")
                     ->type_name("RECIPE.toml");
  command->add_option("--set", arguments->sets, "override a key of the recipe (may be repeated)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->needs(recipe);
  command->add_flag("--json", arguments->json, "for programs");
  command->footer(
      "Start it as the run will be started: mpirun -n 4 trestle doctor, or srun --mpi=pmix ...\n"
      "It writes up to 256 MB a host to the run directory's file system, and deletes them again.\n"
      "Exit code 4 if anything fails, 0 otherwise. docs/doctor.md explains each line.");
  command->callback(
      [arguments, &action] { action = [arguments] { return see_doctor(*arguments); }; });
}

}  // namespace trestle::launch
