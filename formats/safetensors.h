// Safetensors files, read strictly and written byte for byte as the Python library writes them.
//
// A file is: 8 bytes little-endian header length, a JSON header padded with spaces, the tensors'
// bytes (little-endian, row-major). Read is only what is all of this: header of at most 100 MB, one
// JSON object without duplicate keys, dtypes of element_type.h (none is smaller than a byte),
// shapes whose sizes fit their offsets, and tensors that cover the bytes after the header once,
// without hole or overlap. Bytes are fetched by pread, never mapped: a file that shrinks is an
// error, not a SIGBUS.
//
// LOCAL. THREADS: a SafetensorsFile may be read by several threads at once.
//   auto file = SafetensorsFile::open("weights.safetensors");
//   for (const TensorEntry& entry : file.entries()) {
//     std::vector<std::byte> bytes(entry.size_bytes());
//     file.read(entry, bytes);
//   }
// Format: https://github.com/huggingface/safetensors#format
#pragma once
#include "base/files.h"
#include "formats/element_type.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::formats {

struct TensorEntry {
  std::string name;
  ElementType dtype;
  std::vector<std::int64_t> shape;  ///< [] is a scalar
  std::uint64_t begin_bytes = 0;    ///< from the start of the file
  std::uint64_t end_bytes = 0;

  std::uint64_t size_bytes() const { return end_bytes - begin_bytes; }
};

class SafetensorsFile {
 public:
  /// Reads and checks the header. Errors: ExitCode::data, naming the file and the tensor.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<TensorEntry>& entries() const { return entries_; }  ///< in file order
  const TensorEntry* find(std::string_view name) const;                 ///< nullptr: not there
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Fills `into`, which has entry.size_bytes() bytes, with the tensor's bytes.
  void read(const TensorEntry& entry, std::span<std::byte> into) const;
  const FileReader& bytes() const { return file_; }  ///< for who reads parts of tensors

 private:
  explicit SafetensorsFile(FileReader file) : file_(std::move(file)) {}

  FileReader file_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> position in entries_
  std::map<std::string, std::string> metadata_;
};

struct TensorToWrite {
  std::string name;
  ElementType dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  ///< row-major, little-endian; the caller's until the return
};

/// Written beside `path` (with .tmp), synced and renamed; one writer a path. Tensors are laid out
/// by dtype, then by name, whatever their order here. Errors: ExitCode::environment (disk),
/// ExitCode::data (text that is not UTF-8).
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace trestle::formats
