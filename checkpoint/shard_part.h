// What a rank leaves in the temporary folder for rank 0 to read: the manifest of its shard alone,
// behind a line that says how long the shard took.
//
//   write_part(temporary, rank, {.manifest = ..., .took_s = 2.5});
//
// LOCAL. THREADS: any. ERRORS: ExitCode::checkpoint.
#pragma once
#include "checkpoint/manifest.h"

#include <filesystem>
#include <string>

namespace trestle::checkpoint {

struct ShardPart {
  Manifest manifest;
  double took_s = 0;
};

std::string part_name(int rank);

/// On disk when this returns.
void write_part(const std::filesystem::path& folder, int rank, const ShardPart& part);
ShardPart read_part(const std::filesystem::path& folder, int rank);

}  // namespace trestle::checkpoint
