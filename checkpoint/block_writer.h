// A file written from its first byte to its last in blocks of kBlockBytes, each digested while it
// is in memory, so that nothing is read again.
//
//   BlockWriter file(folder / "shard-00000-of-00002.h5");
//   for (blocks) file.append(block);          // all of kBlockBytes, but the last
//   const FileRecord record = file.finish();  // on disk
//
// LOCAL. THREADS: one. ERRORS: ExitCode::checkpoint, naming the file.
#pragma once
#include "base/files.h"
#include "checkpoint/manifest.h"

#include <cstddef>
#include <filesystem>
#include <span>

namespace trestle::checkpoint {

class BlockWriter {
 public:
  explicit BlockWriter(const std::filesystem::path& path);

  void append(std::span<const std::byte> block);
  FileRecord finish();

 private:
  FileWriter file_;
  FileRecord record_;
};

}  // namespace trestle::checkpoint
