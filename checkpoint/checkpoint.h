// Checkpoints: the whole training state in one folder that is complete or not there.
//
//   checkpoints/step-00000100/manifest.json  shard-00000-of-00002.h5  shard-00001-of-00002.h5
//   checkpoints/latest                        the newest folder's name, for people
//
//   checkpoint::save(world, checkpoint::collect(visit), {.folder = run / "checkpoints", ...});
//   if (auto found = checkpoint::newest(world, run / "checkpoints"))
//     world.agreed([&] { checkpoint::load(*found, visit); });
//
// Each rank writes one HDF5 file; h5py reads them. A checkpoint is written under a temporary name
// and renamed when every file is on disk on all ranks, so a crash leaves the old ones and at most
// a ".tmp-..." folder. Any number of ranks can load what any other number saved.
// COLLECTIVE or LOCAL is said at each function. THREADS: any; one save at a time in a folder.
// ERRORS: ExitCode::checkpoint, naming the file and the tensor.
#pragma once
#include "checkpoint/manifest.h"
#include "checkpoint/state_tree.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace trestle::checkpoint {

struct SaveRequest {
  std::filesystem::path folder;  ///< .../checkpoints, made if missing
  std::int64_t step = 0;
  std::string recipe_toml;  ///< resolved
  std::string recipe_hash;
  std::optional<TopologyRecord> topology = std::nullopt;
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

/// LOCAL. The complete checkpoint of the highest step: its manifest parses and has its digest, and
/// its files have the right sizes. Others are skipped with a warning that says what is wrong.
std::optional<std::filesystem::path> newest(const std::filesystem::path& folder);
/// COLLECTIVE. The same on every rank, as rank 0 sees it.
std::optional<std::filesystem::path> newest(const dist::Communicator& comm,
                                            const std::filesystem::path& folder);

/// Whether the checkpoint may hold more than the visitor names (to use its weights only, say).
enum class Unnamed { refuse, ignore };

struct LoadReport {
  std::int64_t step = 0;
  std::uint64_t bytes_read = 0;  ///< from shards, whole blocks
};

/// LOCAL. Fills the visited state, on any number of ranks; each reads what it needs. Before any
/// tensor changes, all differences in names, shapes and dtypes are listed in one error. Digests are
/// checked while reading: after an error from damaged bytes, tensors may be partly overwritten.
LoadReport load(const std::filesystem::path& checkpoint, const Visitor& visitor,
                Unnamed unnamed = Unnamed::refuse);

}  // namespace trestle::checkpoint
