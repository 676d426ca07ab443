// A file written from its first byte to its last in blocks of kBlockBytes, each digested while it
// is in memory, so that nothing is read again. Where the file system can, whole blocks go past the
// page cache: the training's own files stay in it, and no copy is made.
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
  ~BlockWriter();
  BlockWriter(const BlockWriter&) = delete;
  BlockWriter& operator=(const BlockWriter&) = delete;

  void append(std::span<const std::byte> block);
  FileRecord finish();

 private:
  bool write_direct(std::span<const std::byte> block);

  FileWriter file_;
  int direct_ = -1;  ///< the same file, past the page cache; -1: not (any more)
  FileRecord record_;
};

}  // namespace trestle::checkpoint
