// Saving: the whole training state in one folder that is complete or not there.
//
//   checkpoints/step-00000100/manifest.json  shard-00000-of-00002.h5  shard-00001-of-00002.h5
//   checkpoints/latest                        the newest folder's name, for people
//
//   checkpoint::save(world, checkpoint::collect(visit), {.folder = run / "checkpoints", ...});
//
// Each rank writes one HDF5 file; h5py reads them. A checkpoint is written under a temporary name
// and renamed when every file is on disk on all ranks, so a crash leaves the old ones and at most
// a ".tmp-..." folder. Any number of ranks can load what any other number saved (load.h).
// COLLECTIVE or LOCAL is said at each function. THREADS: any; one save at a time in a folder.
// ERRORS: ExitCode::checkpoint, naming the file and the tensor.
#pragma once
#include "checkpoint/manifest.h"
#include "checkpoint/state_tree.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace trestle::checkpoint {

struct SaveRequest {
  std::filesystem::path folder;  ///< .../checkpoints, made if missing
  std::int64_t step = 0;
  std::string recipe_toml;  ///< resolved
  std::string recipe_hash;
  std::optional<TopologyRecord> topology = std::nullopt;
  std::int64_t epoch = 0;  ///< how often the run directory has had another holder; 0: nobody counts
  /// Called by rank 0 right before the checkpoint gets its name; what it throws ends the save.
  std::function<void()> before_publish = {};
  /// This rank's fellows, which hold the same tensors and share the writing of them; null: all.
  const dist::Communicator* holders = nullptr;
};

/// COLLECTIVE. Writes folder/step-NNNNNNNN and returns it. A checkpoint of the same step is
/// replaced. If any rank fails, every rank throws, the temporary folder is removed, and what was
/// there before stays as it was.
std::filesystem::path save(const dist::Communicator& comm, const StateTree& tree,
                           const SaveRequest& request);

/// One of several that hold the same tensors.
struct Holder {
  int rank = 0, count = 1;
};

/// LOCAL. The shard of one rank in a folder that exists, on disk when this returns; and the
/// manifest of that shard alone. save() is this on every rank, then merge() and a rename.
Manifest write_shard(const std::filesystem::path& folder, const StateTree& tree, int rank,
                     int world, const Holder& holder);

/// LOCAL. Deletes the temporary folders of saves that were killed. For the only writer of the
/// folder, before its first save.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace trestle::checkpoint
