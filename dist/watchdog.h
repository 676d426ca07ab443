// Notices that a rank has died, hangs or has lost step, says which in one sentence, and ends the
// run, also where every main thread hangs inside a collective.
//
//   dist::FlightRing ring(2000, world.size());
//   world.observe(&ring);
//   dist::Watchdog watchdog(world, ring, options, hooks);
//   ... work; PhaseScopes say what it is ...
//   watchdog.goodbye();             // all ranks leave together; from now on an end is no death
//
// One thread a rank. It never touches MPI, a file, the log or a lock that is held across anything
// slow: it reads the ring, talks over sockets of its own (a star around rank 0), and counts time.
// Every half second each rank tells rank 0 its last operations and rank 0 tells all its own. A
// closed socket without a goodbye is a death, seen within milliseconds; rank 0 judges (verdict.h)
// and sends the verdict to all; if rank 0 is the one that died, every rank sees that by itself.
// Then, on each rank, hooks.record runs on another thread and may take record_s, and hooks.end
// ends the process.
// TIME is counted while the process runs: one that was stopped (SIGSTOP) has not been quiet.
//
// COLLECTIVE: constructor and goodbye(). The destructor is not: a watchdog destroyed without
// goodbye() looks like a death to the others. THREADS: failed() from any, the rest from one.
#pragma once
#include "dist/communicator.h"
#include "dist/flight_ring.h"
#include "dist/verdict.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace trestle::dist {

struct WatchdogOptions {
  TimeLimits limits = {};
  double silence_s = 30;  ///< a connected rank that says nothing for so long is gone
  double beat_s = 0.5;
  double join_s = 60;   ///< how long the ranks may take to find each other
  double record_s = 5;  ///< how long hooks.record may take
};

struct WatchdogHooks {
  /// Writes down what this rank knows. `decided_here`: this rank came to the verdict, it was not
  /// told; where rank 0 is lost, that is every rank.
  std::function<void(const Verdict& verdict, bool decided_here)> record;
  /// Ends the process with this code and does not return (tests may).
  std::function<void(ExitCode code)> end;
};

class Watchdog {
 public:
  static constexpr std::chrono::seconds kPatience{10};

  Watchdog(const Communicator& world, FlightRing& ring, const WatchdogOptions& options,
           WatchdogHooks hooks);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Returns once every rank has called it (or after kPatience, if one cannot). Where a rank is
  /// lost before that, it does not return: hooks.end comes first.
  void goodbye();

  /// LOCAL. This rank met an error that the others do not know, and all must leave. Returns only if
  /// nobody ends this process within kPatience.
  void failed(ExitCode code, const std::string& sentence);

 private:
  class Watch;  // what the thread owns
  void wait_for_end();

  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    bool leaving = false;
    bool over = false;  ///< the thread has nothing more to do
    bool abandoned = false;
    std::optional<RankView::Failure> failure;
    int wake_fd = -1;
  };
  void say(const std::function<void(Shared&)>& change);

  std::unique_ptr<Shared> shared_;
  std::unique_ptr<Watch> watch_;
  std::thread thread_;
};

}  // namespace trestle::dist
