#include "checkpoint/damage.h"

#include "base/files.h"

#include <cerrno>

namespace trestle::checkpoint {

void rethrow_file_error(const std::filesystem::path& file, std::uint64_t bytes) {
  try {
    throw;
  } catch (const FileError& error) {
    const int reason = error.reason();
    if (reason != 0 && reason != ENOENT && reason != ENOTDIR) throw;
    throw DamageError(error.what(), {file.filename().string(), 0, bytes, error.what()});
  }
}

}  // namespace trestle::checkpoint
