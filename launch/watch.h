// The watchdog of a run (dist/watchdog.h) with its files: who is stuck is said once and stands in
// verdict.json; what each rank did last stands in logs/flight-NNNNN.jsonl.
//
//   RunWatch watch(world);
//   watch.begin(options, directory);    // before this and without it every call does nothing
//   ... PhaseScope phase(watch.ring(), ...) ...
//   watch.goodbye();
//
// SIGUSR1 to a rank (or to mpirun, which passes it on to all) writes its flight ring at once.
// When the watchdog trips, the process ends here, whatever its other threads do: verdict.json
// (written by the first rank that gets there), the ring, the log's last line, the exit code.
//
// COLLECTIVE: begin() and goodbye(). THREADS: one.
#pragma once
#include "base/error.h"
#include "dist/communicator.h"
#include "dist/flight_ring.h"
#include "dist/watchdog.h"
#include "trainers/metrics/run_directory.h"
#include "trainers/options.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>

namespace trestle::launch {

class RunWatch {
 public:
  /// `world` must outlive the watch.
  explicit RunWatch(const dist::Communicator& world) : world_(world) {}
  ~RunWatch();
  RunWatch(const RunWatch&) = delete;
  RunWatch& operator=(const RunWatch&) = delete;

  /// Watches from now on, unless dist.watchdog = false. A verdict of an earlier start in the same
  /// directory is said and goes.
  /// `epoch` is this run's (trainers/run_hold.h): once another has the directory, a verdict is
  /// said and no longer written there.
  void begin(const trainers::WatchOptions& options, const trainers::RunDirectory& directory,
             std::int64_t epoch);

  /// Null where nobody watches.
  dist::FlightRing* ring() { return ring_.get(); }

  /// All ranks are done: leaving is no death from now on. Does not return if a rank is lost.
  void goodbye();

  /// LOCAL. An error that the other ranks do not know ends them all, with this code. Returns only
  /// where nobody watches.
  void failed(ExitCode code, const std::string& sentence);

 private:
  const dist::Communicator& world_;
  std::unique_ptr<dist::FlightRing> ring_;
  std::unique_ptr<dist::Watchdog> watchdog_;
  std::atomic<bool> over_{false};
  std::thread on_request_;
};

/// The last line of a rank's log, before it leaves.
void log_exit_code(int code);

}  // namespace trestle::launch
