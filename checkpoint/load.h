// Loading: the newest complete checkpoint, on any number of ranks, by several threads each.
//
//   const auto loaded = checkpoint::load_newest(world, run / "checkpoints", {}, [&](auto& folder) {
//     checkpoint::load(folder, visit);        // each rank its own shards
//   });
//
// COLLECTIVE or LOCAL is said at each function. THREADS: any.
// ERRORS: ExitCode::checkpoint, naming the file and the tensor; DamageError (damage.h) where the
// stored bytes are not the right ones.
#pragma once
#include "checkpoint/find.h"
#include "checkpoint/manifest.h"
#include "checkpoint/state_tree.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace trestle::checkpoint {

/// Whether the checkpoint may hold more than the visitor names (to use its weights only, say).
enum class Unnamed { refuse, ignore };

struct LoadOptions {
  Unnamed unnamed = Unnamed::refuse;
  int threads = 4;  ///< of this rank, that read and compare digests
};

struct LoadReport {
  std::int64_t step = 0;
  std::uint64_t bytes_wanted = 0;  ///< of this rank's tensors
  std::uint64_t bytes_read = 0;    ///< from shards, whole blocks, each once
  std::uint64_t pieces = 0;        ///< bytes_read <= bytes_wanted + 2 blocks a piece
  double seconds = 0;
};

/// LOCAL. Fills the visited state, on any number of ranks; each reads what it needs. Before any
/// tensor changes, all differences in names, shapes and dtypes are listed in one error. Digests are
/// checked while reading: after a DamageError tensors may be partly overwritten.
LoadReport load(const std::filesystem::path& checkpoint, const Visitor& visitor,
                const LoadOptions& options = {});
/// The same where its manifest has been read.
LoadReport load(const std::filesystem::path& checkpoint, const Manifest& manifest,
                const Visitor& visitor, const LoadOptions& options = {});

/// COLLECTIVE. newest() of find.h as rank 0 sees it, the same on every rank.
std::optional<std::filesystem::path> newest(const dist::Communicator& comm,
                                            const std::filesystem::path& folder);

/// What becomes of a damaged checkpoint that is passed over.
enum class Damaged {
  set_aside,  ///< rank 0 renames it to step-N.damaged: for the holder of the run directory
  leave,
};

struct FallbackOptions {
  Damaged damaged = Damaged::set_aside;
  std::string way_out = {};  ///< what else can be done when none is whole: a sentence
};

/// COLLECTIVE. Calls `attempt`, LOCAL, with the newest checkpoint; where a rank finds damage (a
/// DamageError), every rank goes back to the one before, loudly, and so on; superseded ones
/// (epochs.h) are passed over. Returns the one that
/// every rank has loaded whole; nothing where the folder has never held a checkpoint. What is no
/// damage ends it with the error of all ranks, and nothing is renamed then. If all are damaged, now
/// or earlier, that is an error, and what was loaded in part must not be used.
std::optional<std::filesystem::path> load_newest(
    const dist::Communicator& comm, const std::filesystem::path& folder,
    const FallbackOptions& options,
    const std::function<void(const std::filesystem::path&)>& attempt);

/// LOCAL. Where the checkpoints are that a path means: a run directory's checkpoints/ or a folder
/// of them; nothing where the path is itself a checkpoint. Error(checkpoint) where it is neither.
std::optional<std::filesystem::path> folder_of_checkpoints(const std::filesystem::path& given);

}  // namespace trestle::checkpoint
