// What stands in a lease (lease.h): which process holds a run directory, since when, and its last
// heartbeat; and what another process can know of it.
//
//   const LeaseHolder me = this_process(world.size());
//   const LeaseRecord record = parse_lease(text, "runs/cats/lease.json");
//   if (judge(record, me) == Standing::dead) ...
//
// LOCAL. THREADS: any.
#pragma once
#include "dist/launch_check.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace trestle::checkpoint {

constexpr std::size_t kLeaseTextLimit = 256;  ///< characters of a name in a lease

/// A process that holds a run directory or would like to.
struct LeaseHolder {
  std::string host;
  std::string boot_id;    ///< of the running kernel: two machines may have one name
  std::string pid_space;  ///< in which the pid counts: containers have their own
  std::int64_t pid = 0;
  std::int64_t started_ticks = 0;  ///< after boot; another process with the same pid has another
  std::string cluster, job;        ///< Slurm's; empty outside
  std::int64_t restart = 0;        ///< how often Slurm has requeued the job
  int world = 1;                   ///< ranks

  bool operator==(const LeaseHolder&) const = default;
  /// "host n1, pid 4242, Slurm job 17 (restart 2), 4 ranks".
  std::string to_text() const;
};

LeaseHolder this_process(int world,
                         const dist::Environment& environment = dist::process_environment);

struct LeaseRecord {
  std::int64_t epoch = 0;  ///< how many holders the directory has had, this one included
  LeaseHolder holder;
  std::string taken, beaten;  ///< wall-clock times of the holder's host, for people
  std::int64_t beats = 0;
  bool ended = false;  ///< the holder has left in order

  bool operator==(const LeaseRecord&) const = default;
  /// The holder, and "since 2026-03-01 12:00:00 UTC".
  std::string to_text() const;
};

/// The file's text; as long for any number of beats, so that it can be overwritten in place.
std::string to_text(const LeaseRecord& record);

/// Throws Error(environment), which names `origin`, for a text that is not whole.
LeaseRecord parse_lease(std::string_view text, const std::string& origin);

/// What can be known of a holder at once, without waiting for a sign of life.
enum class Standing {
  ended,          ///< it has left in order
  dead,           ///< it ran on this host and does not any more
  older_restart,  ///< it was this very Slurm job before a requeue
  unknown,
};

/// When the live process with this number was started, in ticks after boot; nothing if there is
/// none; -1 if there is one that does not let itself be looked at.
using ProcessLook = std::function<std::optional<std::int64_t>(std::int64_t pid)>;
std::optional<std::int64_t> start_of_process(std::int64_t pid);

Standing judge(const LeaseRecord& record, const LeaseHolder& me,
               const ProcessLook& look = start_of_process);

/// "2026-03-01 12:00:00 UTC".
std::string time_text_now();

}  // namespace trestle::checkpoint
