// Who is to blame when a run is stuck or loses a rank: a pure function of what the ranks last told.
//
//   if (auto verdict = dist::judge(ranks, limits)) log_error("{}", verdict->sentence);
//     -> step 812: rank 37 (host n12) never arrived at gradients reduce_scatter "bucket 7" (26 MB):
//        last seen in phase step 61 s ago after gradients reduce_scatter "bucket 6"; 63 ranks wait
//        since 61 s
//
// LOCAL. THREADS: any.
#pragma once
#include "base/error.h"
#include "dist/activity.h"

#include <optional>
#include <span>

namespace trestle::dist {

/// How long a rank may show no sign of progress. Pictures and evaluation have no limit: their
/// length is the task's, and ranks that are done wait in them.
struct TimeLimits {
  double startup_s = 600;
  double step_s = 300;
  double checkpoint_s = 1800;
  double of(Phase phase) const;
};

enum class VerdictKind : std::uint8_t {
  died,     ///< its process or its host is gone
  desync,   ///< it issued another operation than the others
  failed,   ///< it met an error that the others do not know
  stalled,  ///< it lives and does not arrive
};

struct Verdict {
  VerdictKind kind = VerdictKind::stalled;
  ExitCode code = ExitCode::peer;  ///< with which every rank leaves
  int rank = 0;
  std::string host;
  std::string op;  ///< where it is missed, or what it did last; may be empty
  std::int64_t step = -1;
  std::string sentence;
  bool operator==(const Verdict&) const = default;
};

/// {"kind", "rank", "host", "op", "step", "code", "sentence"}, one object, one line.
std::string verdict_json(const Verdict& verdict);
std::string encode(const Verdict& verdict);
Verdict decode_verdict(std::string_view bytes);

/// One rank as seen by the one that judges.
struct RankView {
  enum class Life : std::uint8_t {
    unknown,  ///< this judge hears nothing of it
    alive,
    lost,    ///< its connection ended without a goodbye
    silent,  ///< connected, and yet it has said nothing for too long
    left,    ///< it said goodbye
  };
  struct Failure {
    ExitCode code;
    std::string sentence;
  };
  Life life = Life::unknown;
  std::string host;
  RankActivity activity;
  double told_ago_s = 0;  ///< since it told its activity
  std::optional<Failure> failure;
};

/// `ranks` by rank. Nothing, while all is well. A lost rank comes before a desync, that before a
/// failure, a silence, and a stall: each of them brings about those after it.
std::optional<Verdict> judge(std::span<const RankView> ranks, const TimeLimits& limits);

}  // namespace trestle::dist
