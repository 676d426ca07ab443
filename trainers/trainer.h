// The one training loop. It drives a Task: data in, steps, metrics, pictures, checkpoints, and the
// task's jobs at the end.
//
//   Trainer trainer(recipe, world, run_directory, {.stop = stop});
//   trainer.run();          // resumes from the newest checkpoint in the run directory
//
// COLLECTIVE: constructor and run(), on every rank of `world`. THREADS: one.
// ERRORS are thrown on every rank with the documented code.
#pragma once
#include "base/stop.h"
#include "configs/recipe.h"
#include "data/loader.h"
#include "dist/collectives.h"
#include "dist/flight_ring.h"
#include "dist/mesh.h"
#include "trainers/fault_injection.h"
#include "trainers/job_end.h"
#include "trainers/metrics/recorder.h"
#include "trainers/metrics/run_directory.h"
#include "trainers/optim/schedule.h"
#include "trainers/options.h"
#include "trainers/paranoid.h"
#include "trainers/run_hold.h"
#include "trainers/saver.h"
#include "trainers/state.h"
#include "trainers/summation.h"

#include <memory>
#include <optional>

namespace trestle::trainers {

/// A task with its weights, and the ranks in as many branches as it has; it has entered this one's.
struct PlacedTask {
  std::unique_ptr<Task> task;
  dist::Mesh mesh;
};

/// COLLECTIVE. The recipe's task.
PlacedTask place_task(const configs::Recipe& recipe, const dist::Communicator& world);

/// A task and the engine over its parameters: what checkpoints hold. Also used without a loop, to
/// make pictures from a checkpoint. LOCAL; the collectives, of the mesh's data axis, outlive it.
struct Assembly {
  Assembly(const configs::Recipe& recipe, std::unique_ptr<Task> task,
           dist::Collectives& collectives, int branch = 0);
  /// The recipe's task, in branch 0.
  Assembly(const configs::Recipe& recipe, dist::Collectives& collectives)
      : Assembly(recipe, make_task(recipe, Materialise::weights), collectives) {}
  TrainingState state() {
    return {.engine = engine, .task = *task, .counters = counters, .branch = branch};
  }

  std::unique_ptr<Task> task;
  Engine engine;
  RunCounters counters;
  int branch;
};

/// What to do with a run directory whose recipe differs in what decides the result.
enum class ChangedRecipe { refuse, accept };

/// Where a run begins.
struct Resume {
  enum class Kind : std::uint8_t {
    automatic,  ///< at the run directory's newest checkpoint, or at step 0 where there is none
    never,      ///< at step 0; refused where the run directory holds checkpoints
    path,       ///< at another run's checkpoint, unless this run has its own since it began there
  };
  Kind kind = Kind::automatic;
  std::filesystem::path path = {};  ///< a checkpoint or a run directory
};

struct TrainerSettings {
  Resume resume = {};
  ChangedRecipe changed_recipe = ChangedRecipe::refuse;
  StopToken stop = {};
  RunHold* hold = nullptr;             ///< of the directory; null: the trainer takes it itself
  dist::FlightRing* flight = nullptr;  ///< is told the phases; null: nobody watches
  JobEnd* job_end = nullptr;           ///< is told what steps and saves take; on one rank
  std::vector<Fault> faults = {};
  /// By rank, in place of the machines' names: for tests of several hosts on one.
  std::vector<std::string> hosts = {};
};

enum class Outcome {
  complete,
  stopped,  ///< on request: the state is saved, and the same command goes on from there
};

class Trainer {
 public:
  Trainer(const configs::Recipe& recipe, const dist::Communicator& world, RunDirectory directory,
          const TrainerSettings& settings = {});

  Outcome run();

 private:
  Outcome run_held();
  void resume();
  /// LOCAL, rank 0. Whose checkpoints the run goes on from.
  struct Beginning;
  Beginning choose_beginning() const;
  /// LOCAL. Fills the state from a checkpoint of this recipe; returns what is to be said of another
  /// order of summation.
  std::string load_state(const std::filesystem::path& checkpoint);
  /// Throws unless what the directory or checkpoint was made with decides the same result.
  void require_same_recipe(const std::string& resolved_before, const std::string& holder,
                           ExitCode code) const;
  void train();
  /// What a step that changed nothing means for the run.
  void judge_skip(const StepReport& report);
  void save(SaveKind kind);
  void save_and_leave(const std::string& reason);
  bool grid_is_missing() const;
  void make_grid();
  void finish();

  configs::Recipe recipe_;
  configs::Schema schema_;
  std::string resolved_;
  const dist::Communicator& world_;
  RunDirectory directory_;
  RunOptions run_;
  TrainOptions train_;
  AdamWOptions optim_;
  ScheduleOptions schedule_;
  DistOptions dist_;
  WatchOptions watch_;
  CheckpointOptions checkpoint_;
  SampleOptions sample_;
  LogOptions log_;
  TrainerSettings settings_;
  Draws draws_;
  PlacedTask placed_;  ///< whose task is soon the assembly's
  const dist::Mesh& mesh_ = placed_.mesh;
  Summation summation_;
  std::unique_ptr<dist::Collectives> collectives_, plain_;
  Assembly assembly_;
  std::unique_ptr<Exchange> exchange_;
  std::optional<Paranoid> paranoid_;
  FaultInjection faults_;
  /// Before the saver, so that nothing is saved after the directory was let go.
  std::optional<RunHold> own_hold_;
  RunHold* hold_ = nullptr;
  Saver saver_;                       ///< after the assembly, which it reads
  std::optional<Recorder> recorder_;  ///< rank 0's
  /// The last member: its threads are joined before anything that they read from goes, and after
  /// the last save.
  std::unique_ptr<data::Loader> loader_;
};

/// LOCAL. "runs/<run.name, or the recipe's file name>".
std::filesystem::path default_run_directory(const configs::Recipe& recipe);

}  // namespace trestle::trainers
