// Which checkpoints are kept, and how the others go.
//
//   retain(run / "checkpoints", {.keep_last = 3, .keep_every = 10000}, sealed);   // after each
//   save finish_deletes(run / "checkpoints");                                          // at each
//   start
//
// A checkpoint is deleted under another name (".deleting-step-00000100-..."), so that what an
// interruption leaves is no half checkpoint, and goes at the next start.
// LOCAL: for one rank, that of the run directory's holder. THREADS: any, one at a time in a folder.
#pragma once
#include "checkpoint/find.h"

#include <cstdint>
#include <filesystem>
#include <vector>

namespace trestle::checkpoint {

struct RetentionPolicy {
  std::int64_t keep_last = 0;   ///< the newest so many stay; 0: all
  std::int64_t keep_every = 0;  ///< and those of steps that this divides; 0: none
};

/// After `sealed` was renamed into its place: deletes older checkpoints that the policy does not
/// keep, the oldest first, and returns their names. Never deleted: `sealed` and what is newer, what
/// is being written, what is set aside, and anything while `sealed` is not complete or is
/// superseded (epochs.h). Only complete checkpoints that are not superseded count as kept. A
/// failure is warned of: it costs space, no data.
std::vector<std::filesystem::path> retain(const std::filesystem::path& folder,
                                          const RetentionPolicy& policy,
                                          const std::filesystem::path& sealed);

/// Deletes what interrupted deletes have left.
void finish_deletes(const std::filesystem::path& folder);

}  // namespace trestle::checkpoint
