// Files that are either whole or not there: exact reads at offsets, and writes that survive a
// crash.
//
// LOCAL. THREADS: free functions from any thread; one FileReader may serve several threads (pread
// moves no file position). The caller says which exit code a failure has, because a recipe, a
// picture and a checkpoint are opened by the same functions.
//
//   FileReader shard(path, ExitCode::checkpoint);
//   shard.read_exact(offset_bytes, buffer);
//   write_file_atomic(folder / "latest", "step-00000100\n", ExitCode::checkpoint);
#pragma once
#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace trestle {

/// A file that could not be opened or read, and why, for who has to tell reasons apart.
class FileError : public Error {
 public:
  FileError(ExitCode code, const std::string& message, int reason)
      : Error(code, message), reason_(reason) {}
  /// errno's value; 0: it could be read, but is no regular file or ends too early.
  int reason() const { return reason_; }

 private:
  int reason_;
};

/// A regular file opened for reading. FileErrors name the file and carry the given code.
class FileReader {
 public:
  FileReader(std::filesystem::path path, ExitCode code);
  ~FileReader();
  FileReader(FileReader&& other) noexcept;
  FileReader& operator=(FileReader&& other) noexcept;

  std::uint64_t size_bytes() const { return size_bytes_; }
  const std::filesystem::path& path() const { return path_; }

  /// Fills `into` from `offset_bytes` on; a file that ends before that is an error.
  void read_exact(std::uint64_t offset_bytes, std::span<std::byte> into) const;
  /// The same into several places, one after the other.
  void read_exact(std::uint64_t offset_bytes, std::span<const std::span<std::byte>> into) const;

  /// Lets the kernel fetch these bytes already, and returns at once. Advice: it may do nothing.
  void will_read(std::uint64_t offset_bytes, std::uint64_t bytes) const;

 private:
  std::filesystem::path path_;
  ExitCode code_;
  int descriptor_ = -1;
  std::uint64_t size_bytes_ = 0;
};

/// A file created (or emptied) for writing at offsets. Errors name it and carry the given code.
class FileWriter {
 public:
  FileWriter(std::filesystem::path path, ExitCode code);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  /// Writes all of `bytes` from `offset_bytes` on; the file grows as needed, gaps read as zeros.
  void write_exact(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const;
  /// Waits until all of it is on disk.
  void sync() const;

 private:
  std::filesystem::path path_;
  ExitCode code_;
  int descriptor_ = -1;
};

/// The whole file as text; larger than `limit_bytes` is an error, so no file can eat the memory.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t limit_bytes,
                           ExitCode code);

/// Creates or overwrites the file and waits until it is on disk (not its folder entry).
void write_file_durable(const std::filesystem::path& path, std::string_view bytes, ExitCode code);

/// The same through a temporary name, fsync, rename and fsync of the folder: after a crash there is
/// the old file or the new one, never half of it. One writer a path.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes, ExitCode code);

/// Waits until what anyone wrote to the file is on disk.
void fsync_file(const std::filesystem::path& path, ExitCode code);
/// Waits until the entries of the folder (files made, renamed, deleted in it) are on disk.
void fsync_directory(const std::filesystem::path& folder, ExitCode code);

}  // namespace trestle
