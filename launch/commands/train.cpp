#include "base/error.h"
#include "base/log.h"
#include "dist/binding.h"
#include "launch/commands/command.h"
#include "launch/signals.h"
#include "launch/slurm_job.h"
#include "launch/watch.h"
#include "trainers/check_recipe.h"
#include "trainers/fault_injection.h"
#include "trainers/job_end.h"
#include "trainers/run_hold.h"
#include "trainers/trainer.h"

#include <CLI/CLI.hpp>

#include <cstdlib>
#include <memory>
#include <unistd.h>

namespace trestle::launch {
namespace {

/// A bare mpirun is impatient; better known before the first Ctrl-C. Scripts that pass signals on
/// set TRESTLE_PATIENT_STOP.
void say_how_to_stop() {
  if (!under_mpirun() || std::getenv("TRESTLE_PATIENT_STOP")) return;
  log_info(
      "to stop: kill -USR2 {} (mpirun) saves and leaves, however long the save takes; after Ctrl-C "
      "or SIGTERM mpirun kills the ranks within 2 s",
      ::getppid());
}

/// "auto", "never", or where to begin.
trainers::Resume parse_resume(const std::string& said) {
  using Kind = trainers::Resume::Kind;
  if (said == "auto") return {.kind = Kind::automatic};
  if (said == "never") return {.kind = Kind::never};
  TRESTLE_REQUIRE(!said.empty(), "--resume names nothing (auto, never or a path is expected).");
  return {.kind = Kind::path, .path = said};
}

/// Another run has the directory, and this one hangs where it cannot be told.
void leave_at_once(const std::string& sentence) {
  log_error("{}", sentence);
  std::_Exit(static_cast<int>(ExitCode::environment));
}

/// The files go on from start to start.
void open_log(const trainers::RunDirectory& directory, const dist::Communicator& world,
              std::int64_t start) {
  set_log_file(directory.log(world.rank()).string());
  log_to_file(fmt::format("==== start {}: rank {} of {} on {}, pid {} ====", start, world.rank(),
                          world.size(), dist::host_name(), ::getpid()));
}

/// On rank 0 of a Slurm job.
std::unique_ptr<trainers::JobEnd> watch_job_end(const dist::Communicator& world,
                                                double before_end_s) {
  const auto job = slurm_job();
  if (!world.is_root() || !job || before_end_s == 0) return nullptr;
  auto job_end = std::make_unique<trainers::JobEnd>(
      trainers::JobEnd::Parts{.before_end_s = before_end_s, .ask = ask_squeue(*job), .stop = [] {
                                stop_source().request(kTimeLimit);
                              }});
  job_end->watch();
  return job_end;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("train", "train what a recipe describes, or resume it");
  auto recipe = std::make_shared<RecipeArguments>();
  auto run_dir = std::make_shared<std::string>();
  auto resume = std::make_shared<std::string>("auto");
  auto accept_changes = std::make_shared<bool>(false);
  auto injected = std::make_shared<std::vector<std::string>>();
  recipe->add_to(*command);
  command
      ->add_option("--run-dir", *run_dir,
                   "where the run lives (default: runs/<name of the recipe>)")
      ->type_name("DIR");
  command
      ->add_option("--resume", *resume,
                   "where it begins: auto (default) at the newest checkpoint of the run directory; "
                   "never at step 0, refused where that has checkpoints; or at this checkpoint or "
                   "the newest of this run")
      ->type_name("auto|never|PATH");
  command->add_flag("--accept-changes", *accept_changes,
                    "resume although the recipe has changed in what decides the result");
  command
      ->add_option(
          "--inject", *injected,
          "a fault to test what a run does about it: hang@rank1:step20, kill@..., nan@..., "
          "desync@..., slow=2x@rank1, or kill@rank1:save-NAME[@step20] at a step of a save: " +
              trainers::save_steps_text() + " (may be repeated)")
      ->type_name("FAULT")
      ->allow_extra_args(false)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Testing");
  command->footer(
      "Start one process a rank: mpirun -n 4 trestle train RECIPE.toml, or srun --mpi=pmix ...\n"
      "Starting it again in the same run directory resumes from its newest whole checkpoint (a\n"
      "damaged one is renamed, and the one before is used).\n"
      "SIGINT, SIGTERM and SIGUSR2 (train.stop_signals) end it after the current step, saved, "
      "with\n"
      "exit code 75.");
  command->callback([recipe, run_dir, resume, accept_changes, injected, &action] {
    action = [recipe, run_dir, resume, accept_changes, injected] {
      const trainers::Resume beginning = parse_resume(*resume);
      std::vector<trainers::Fault> faults;
      for (const auto& spec : *injected) faults.push_back(trainers::parse_fault(spec));
      return with_ranks([&](const dist::Communicator& world, StopToken stop, RunWatch& watch) {
        const configs::Recipe loaded = world.agreed([&] {
          configs::Recipe found = recipe->load();
          trainers::check_recipe(found, world.size());
          return found;
        });
        set_log_level_by_name(loaded.section<trainers::LogOptions>("log").level);
        const auto stop_options = loaded.section<trainers::StopOptions>("train");
        stop_on(stop_options.stop_signals);
        const trainers::RunDirectory directory(run_dir->empty()
                                                   ? trainers::default_run_directory(loaded)
                                                   : std::filesystem::path(*run_dir));
        world.agreed([&] { directory.create(); });
        // Before anything in it changes: it may be another run's.
        trainers::RunHold hold(world, directory, loaded.section<trainers::RunOptions>("run"), stop,
                               leave_at_once);
        world.agreed([&] { open_log(directory, world, hold.epoch()); });
        watch.begin(loaded.section<trainers::WatchOptions>("dist"), directory, hold.epoch());
        const dist::PhaseScope starting(watch.ring(), dist::Phase::start_up);
        bind_threads(world, loaded.section<trainers::DistOptions>("dist").threads);
        say_how_to_stop();
        const auto job_end = watch_job_end(world, stop_options.stop_before_end_s);
        const trainers::TrainerSettings settings{
            .resume = beginning,
            .changed_recipe =
                *accept_changes ? trainers::ChangedRecipe::accept : trainers::ChangedRecipe::refuse,
            .stop = stop,
            .hold = &hold,
            .flight = watch.ring(),
            .job_end = job_end.get(),
            .faults = faults};
        const auto outcome = trainers::Trainer(loaded, world, directory, settings).run();
        return static_cast<int>(outcome == trainers::Outcome::complete ? ExitCode::done
                                                                       : ExitCode::preempted);
      });
    };
  });
}

}  // namespace trestle::launch
