// The run directory, held by this run alone (checkpoint/lease.h): the lease on rank 0, its epoch on
// every rank.
//
//   RunHold hold(world, directory, recipe.section<RunOptions>("run"), stop);
//   hold.began(resumed_step);        // from here on later checkpoints of others are void
//   hold.check();                    // in every loop
//   hold.require();                  // right before a checkpoint gets its name
//   hold.ended(ExitCode::done, step, "");
//
// COLLECTIVE: the constructor. The others are LOCAL; only rank 0's do anything. THREADS: require()
// any, the others one. It must outlive whatever may still save: its end lets the next run in.
#pragma once
#include "base/stop.h"
#include "checkpoint/lease.h"
#include "dist/communicator.h"
#include "trainers/metrics/run_directory.h"
#include "trainers/options.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace trestle::trainers {

class RunHold {
 public:
  /// Takes the directory, which exists. Throws on every rank: environment if another run lives in
  /// it, preempted if a stop ends the wait for a sign of life. `overstayed`: see LeaseOptions.
  RunHold(const dist::Communicator& world, RunDirectory directory, const RunOptions& options,
          StopToken stop, std::function<void(const std::string&)> overstayed = {});

  /// How many starts the directory has seen, this one included.
  std::int64_t epoch() const { return epoch_; }

  /// This run goes on from the checkpoint of this step (-1: from none). Throws Error(checkpoint)
  /// where that cannot be written down.
  void began(std::int64_t from_step);
  /// One line, for people; nothing if it never began.
  void ended(ExitCode code, std::int64_t step, const std::string& reason);

  /// Throws Error(environment) once another run has the directory. Cheap.
  void check();
  /// The same, asking the file system now. Throws Error(checkpoint) where that cannot be found out.
  void require();

 private:
  RunDirectory directory_;
  std::int64_t epoch_ = 0;
  int world_ = 1;
  std::string hosts_;
  bool began_ = false;
  checkpoint::LeaseHolder me_;
  std::optional<checkpoint::Lease> lease_;  ///< rank 0's
};

}  // namespace trestle::trainers
