// Whether a checkpoint is what its save wrote, to the last byte: what `trestle inspect --verify`
// asks. (Loading checks what it reads, which is what lies in tensors.)
//
// LOCAL, no torch. THREADS: any; it makes and joins its own.
#pragma once
#include "checkpoint/damage.h"

#include <filesystem>
#include <vector>

namespace trestle::checkpoint {

/// Reads every byte and names each damaged block, missing file, wrong size, file that the manifest
/// does not list, a folder of another step's name, or the manifest itself; in the order of the
/// files. Empty means whole. Throws where the system does not let it read, or the manifest is of a
/// later version.
std::vector<Damage> verify(const std::filesystem::path& checkpoint, int threads = 4);

}  // namespace trestle::checkpoint
