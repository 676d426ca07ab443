// A run directory belongs to one run at a time: the fence against a second one, and against a run
// that everybody believes dead.
//
//   checkpoint::Lease lease(run_dir, this_process(world.size()), {.timeout_s = 60, .stop = stop});
//   ... lease.check() now and then; lease.require_mine() right before a checkpoint gets its name
//
// Whoever takes the directory gets the next epoch. lease.json says who holds it and carries a
// heartbeat. It is free if there is none, if its holder has left in order, if the holder is dead on
// this host (no process with its pid and start time), or if it was this very Slurm job before a
// requeue. Otherwise the taker watches: a heartbeat that goes on means a second live run, which is
// refused; one that stands still for timeout_s on the taker's own clock frees the directory. No
// clocks of two hosts are compared.
//
// Two takers cannot both win: epoch N belongs to whoever makes .lease-N, by linking a file of a
// name of its own to it. That is one question to the file system, also over NFS, where locks and
// O_EXCL have had their failures; no flock is asked. The file of the highest epoch counts, whatever
// lease.json says meanwhile. A holder overwrites its own file in place, through the descriptor it
// has had from the start: one that wakes up late never touches its successor's, and a full disk
// stops no heartbeat.
//
// LOCAL, for rank 0. THREADS: any; one thread of its own renews the heartbeat.
// ERRORS: ExitCode::environment; ExitCode::preempted when a stop ends the wait.
#pragma once
#include "base/stop.h"
#include "checkpoint/lease_record.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace trestle::checkpoint {

struct LeaseOptions {
  double timeout_s = 60;         ///< a heartbeat that stands still for so long has stopped
  std::int64_t after_epoch = 0;  ///< the epoch is at least one more, whatever the files say
  StopToken stop = {};           ///< ends the wait for another's heartbeat
  /// Called on the heartbeat's thread if the lease is lost and still not destroyed timeout_s later:
  /// whoever hangs so deep that it polls nothing must end another way. It may end the process.
  std::function<void(const std::string& sentence)> overstayed = {};
};

/// What a look at the folder says: the record of the highest epoch, if it can be read.
struct LeaseSight {
  std::int64_t epoch = 0;  ///< 0: nobody has held the folder
  std::optional<LeaseRecord> record;
  std::string text;    ///< of its file; a heartbeat changes it
  std::string damage;  ///< why the record could not be read
};
/// Throws Error(environment) where the folder cannot be read.
LeaseSight look_at_lease(const std::filesystem::path& folder);

class Lease {
 public:
  static constexpr const char* kName = "lease.json";

  /// Takes the folder, which exists. Refused, after at most one heartbeat of its holder, if another
  /// run lives in it; waits up to timeout_s where that is not known, and says so.
  Lease(std::filesystem::path folder, LeaseHolder me, LeaseOptions options);
  /// Leaves the folder in order, unless it is lost.
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  std::int64_t epoch() const { return mine_.epoch; }

  /// Whether no later epoch has begun, as the file system says now. Once false, always false.
  bool still_mine();
  /// Throws Error(environment), which names the successor, unless it is.
  void require_mine();
  /// The same, of what the heartbeat's thread knows: costs nothing, unless that thread has found
  /// nothing out for half the time-out (the process was stopped), when the file system is asked.
  void check();

 private:
  class OwnFile;

  void take();
  /// Returns once the folder is free: at once, or after its heartbeat has stood still.
  LeaseSight wait_until_free() const;
  bool claim(std::int64_t epoch);
  void keep_beating();
  void beat();
  void put_in_place(std::string_view text);
  void lose(const LeaseSight& sight);
  std::string loss();

  std::filesystem::path folder_;
  LeaseOptions options_;
  double beat_s_;
  LeaseRecord mine_;
  std::unique_ptr<OwnFile> file_;

  std::atomic<bool> lost_{false};
  std::atomic<double> confirmed_s_{0};  ///< when it was last known to be ours, in s after boot
  std::mutex mutex_;                    ///< of what follows
  std::string loss_;
  std::condition_variable over_changed_;
  bool over_ = false;
  std::thread beating_;
};

}  // namespace trestle::checkpoint
