// Bytes of a checkpoint's files, by offset and plain reads, with the digest of every block they lie
// in checked before they are handed out. The HDF5 library takes no part in loading.
//
//   ShardReader reader(folder, manifest);            // one thread, here and there (inspect)
//   reader.read(piece.file, piece.offset, bytes, name);
//   read_pieces(folder, manifest, pieces, 4);        // several threads, everything at once (load)
//
// LOCAL, no torch. THREADS: one ShardReader a thread; read_pieces() makes and joins its own.
// ERRORS: DamageError naming file, bytes and tensors; a plain Error for what the system says.
#pragma once
#include "base/files.h"
#include "checkpoint/damage.h"
#include "checkpoint/manifest.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::checkpoint {

/// Opens a file of a checkpoint; one that is missing or has another size is damage.
FileReader open_file(const std::filesystem::path& checkpoint, const FileRecord& record);

/// Names what lies in bytes [begin, end) of a file: that tensor, if it does, then others, the
/// largest part first, and HDF5's own bytes between them.
std::string contents(const Manifest& manifest, std::size_t file, std::uint64_t begin,
                     std::uint64_t end, std::string_view tensor = {});

/// Memory that takes the bytes of a block, one place after the other.
using Places = std::span<const std::span<std::byte>>;

/// Reads a whole block of manifest.files[file] and checks its digest, in parts that are still in
/// the cache then; after an error, which names `tensor` first, `into` may hold damaged bytes.
void read_block(const FileReader& reader, const Manifest& manifest, std::size_t file,
                std::size_t block, Places into, std::string_view tensor = {});

/// Reading in the order of the files costs least: one file is open at a time, and the last block is
/// kept, so that small neighbours share one read.
class ShardReader {
 public:
  /// Keeps a reference to the manifest.
  ShardReader(std::filesystem::path checkpoint, const Manifest& manifest);

  /// Fills `into` from that offset of manifest.files[file]; errors name `tensor`. A block that lies
  /// wholly inside is read in place, so after an error `into` may hold damaged bytes.
  void read(std::size_t file, std::uint64_t offset_bytes, std::span<std::byte> into,
            std::string_view tensor);

 private:
  std::filesystem::path checkpoint_;
  const Manifest& manifest_;
  std::size_t file_ = 0;
  std::optional<FileReader> open_;
  std::optional<std::size_t> kept_block_;
  std::vector<std::byte> kept_;
};

/// Takes bytes [at, at + bytes.size()) of a piece; called by several threads at once.
using PieceSink = std::function<void(std::uint64_t at, std::span<const std::byte> bytes)>;

/// Bytes of a file, and where they go.
struct PieceRead {
  std::size_t file = 0;  ///< index into Manifest::files
  std::uint64_t offset = 0, bytes = 0;
  std::string_view tensor = {};  ///< for errors
  std::byte* into = nullptr;     ///< memory for all of them, or null and
  PieceSink sink = {};           ///< what takes them part by part
};

struct ReadCounts {
  std::uint64_t wanted_bytes = 0, read_bytes = 0;  ///< read: whole blocks
  std::uint64_t pieces = 0;                        ///< that have bytes
};

/// Reads each block that the pieces touch, once: at most a block more at either end of a piece than
/// is wanted. After an error memory may be partly filled, also with damaged bytes. Of several
/// errors at once one that is no damage is thrown, else the damage that comes first in the files.
ReadCounts read_pieces(const std::filesystem::path& checkpoint, const Manifest& manifest,
                       std::span<const PieceRead> pieces, int threads);

}  // namespace trestle::checkpoint
