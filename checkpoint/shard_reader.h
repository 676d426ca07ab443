// Bytes of a checkpoint's files, by offset and plain reads, with the digest of every block they lie
// in checked before they are handed out. The HDF5 library takes no part in loading.
//
// LOCAL, no torch. THREADS: one reader a thread. Reading in the order of the files costs least: one
// file is open at a time, and the last block is kept, so that small neighbours share one read.
#pragma once
#include "base/files.h"
#include "checkpoint/manifest.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace trestle::checkpoint {

/// Opens a file of a checkpoint; one that is missing or has another size is an error.
FileReader open_file(const std::filesystem::path& checkpoint, const FileRecord& record);

class ShardReader {
 public:
  /// Keeps a reference to the manifest.
  ShardReader(std::filesystem::path checkpoint, const Manifest& manifest);

  /// Fills `into` from that offset of manifest.files[file]; `tensor` is named in errors. A block
  /// that lies wholly inside is read in place, so after an error `into` may hold damaged bytes.
  void read(std::size_t file, std::uint64_t offset_bytes, std::span<std::byte> into,
            std::string_view tensor);

  /// What was read from the files so far, whole blocks.
  std::uint64_t bytes_read() const { return bytes_read_; }

 private:
  void read_block(std::size_t block, std::span<std::byte> into, std::string_view tensor);

  std::filesystem::path checkpoint_;
  const Manifest& manifest_;
  std::size_t file_ = 0;
  std::optional<FileReader> open_;
  std::optional<std::size_t> kept_block_;
  std::vector<std::byte> kept_;
  std::uint64_t bytes_read_ = 0;
};

/// Damage that verify() found: bytes [begin, end) of a file, and what lies there.
struct Damage {
  std::string file;
  std::uint64_t begin = 0, end = 0;
  std::string what;
};

/// Reads every byte of a checkpoint and names each damaged block, missing file and wrong size, or
/// the manifest itself. Empty means whole.
std::vector<Damage> verify(const std::filesystem::path& checkpoint);

}  // namespace trestle::checkpoint
