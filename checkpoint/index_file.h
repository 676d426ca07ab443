// index.h5: a file beside the shards that shows every tensor whole, for people with h5py. It holds
// HDF5 virtual datasets over the shards, by relative names; Trestle itself never reads it.
//
//   write_index(temporary_folder, manifest);   // before the manifest is written
//
// LOCAL, no torch. THREADS: any, one at a time in a folder. ERRORS: ExitCode::checkpoint.
#pragma once
#include "checkpoint/manifest.h"

#include <filesystem>
#include <string_view>

namespace trestle::checkpoint {

inline constexpr std::string_view kIndexName = "index.h5";

/// Writes it, on disk when this returns (not its folder's entry), and adds it to the manifest's
/// files, as a file like the others. The shards must be there: the elements of scalars, which HDF5
/// cannot show virtually, are copied. The values become attributes of the root.
void write_index(const std::filesystem::path& folder, Manifest& manifest);

}  // namespace trestle::checkpoint
