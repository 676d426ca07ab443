// Loading: the newest complete checkpoint, on any number of ranks.
//
//   if (auto found = checkpoint::newest(world, run / "checkpoints"))
//     world.agreed([&] { checkpoint::load(*found, visit); });
//
// COLLECTIVE or LOCAL is said at each function. THREADS: any.
// ERRORS: ExitCode::checkpoint, naming the file and the tensor.
#pragma once
#include "checkpoint/manifest.h"
#include "checkpoint/state_tree.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>
#include <optional>

namespace trestle::checkpoint {

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
