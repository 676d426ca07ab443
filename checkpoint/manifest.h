// manifest.json: what a checkpoint holds and at which byte of which file. Format version 1; later
// additions are optional fields, so this reader skips fields that it does not know.
//
//   {"format": "trestle-checkpoint", "format_version": 1, "step": 100, "world": 2,
//    "topology": {"host_of_rank": [0, 0], "levels": 1}, "epoch": 1,
//    "recipe": {"hash": "...", "toml": "..."},
//    "versions": {"hdf5": "1.10.8", "torch": "2.11.0", "trestle": "0.1.0"},
//    "values": {"trainer/step": {"int64": 100}, "loss": {"float64": "0.25"}, "x": {"text": "a"}},
//    "files": [{"name": "shard-00000-of-00002.h5", "bytes": 5000, "block_bytes": 4194304,
//               "xxh3_64": ["16 hexadecimal digits of every block of the whole file", ...]}, ...],
//    "tensors": {"model/x.weight": {"shape": [4, 2], "dtype": "float32", "pieces": [
//        {"file": "shard-00000-of-00002.h5", "dataset": "model/x.weight[0:5]", "offset": 2048,
//         "begin": 0, "end": 5, "bytes": 20}, ...]}},
//    "digest": "32 hexadecimal digits: XXH3-128 of the canonical text without this field"}
//
// begin and end count elements of the flattened logical tensor; the pieces of a tensor cover it
// exactly once. Canonical text is JSON with sorted keys, no spaces and unescaped UTF-8; numbers are
// integers only (a float64 is a text, so that inf and nan have one). The file is the same JSON with
// an indent of one space and a final newline, byte for byte, so no bit of it can change unnoticed.
//
// LOCAL, no torch. THREADS: any. Every number in a manifest is treated as hostile: what it says is
// checked against itself here and against the files by who reads them.
// ERRORS: DamageError (damage.h), naming the manifest and the file or tensor; a plain Error where a
// manifest is whole and of a later version, or cannot be read for reasons of the system.
#pragma once
#include "formats/element_type.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace trestle::checkpoint {

inline constexpr std::string_view kManifestName = "manifest.json";
inline constexpr std::uint64_t kBlockBytes = 4194304;

struct FileRecord {
  std::string name;  ///< inside the checkpoint's folder
  std::uint64_t bytes = 0;
  std::vector<std::uint64_t> block_digests;  ///< XXH3-64 of every kBlockBytes, the last one shorter

  std::uint64_t block_begin(std::size_t block) const { return block * kBlockBytes; }
  std::uint64_t block_end(std::size_t block) const;
};

struct PieceRecord {
  std::size_t file = 0;  ///< index into Manifest::files
  std::string dataset;   ///< path inside the HDF5 file, for people
  std::uint64_t offset = 0, bytes = 0;
  std::uint64_t begin = 0, end = 0;  ///< elements of the flattened logical tensor
};

struct TensorRecord {
  std::vector<std::int64_t> shape;
  formats::ElementType dtype = formats::ElementType::float32;
  std::vector<PieceRecord> pieces;  ///< ascending in begin

  std::uint64_t elements() const;
};

/// On which hosts the ranks were, and in how many levels they summed gradients: with these numbers
/// goes the order of summation, so that a run has the same bits only where they are the same.
struct TopologyRecord {
  std::vector<int> host_of_rank;  ///< hosts are numbered in the order of their lowest ranks
  int levels = 1;

  bool operator==(const TopologyRecord&) const = default;
};

/// A number or text of the state that is no tensor.
using Value = std::variant<std::int64_t, double, std::string>;

struct Manifest {
  std::int64_t step = 0;
  int world = 1;                                          ///< ranks that wrote it
  std::optional<TopologyRecord> topology = std::nullopt;  ///< an early checkpoint does not say
  std::int64_t epoch = 0;  ///< the run directory's holder that wrote it; 0: an early one
  std::string recipe_hash, recipe_toml;
  std::map<std::string, std::string> versions;
  std::map<std::string, Value> values;
  std::vector<FileRecord> files;
  std::map<std::string, TensorRecord> tensors;
};

/// The text of manifest.json.
std::string to_text(const Manifest& manifest);

/// Reads that text back. `origin` names it in errors. Each piece is checked on its own: a tensor
/// may still lack elements (what one rank wrote is such a manifest too).
Manifest parse_manifest(std::string_view text, const std::string& origin);

/// Demands that the pieces of every tensor cover it exactly once, and sorts them.
void require_whole(Manifest& manifest, const std::string& origin);

/// One manifest from those of the ranks, in rank order: files and pieces of all, each value as the
/// lowest rank has it, the rest of rank 0.
Manifest merge(std::vector<Manifest> of_ranks);

/// Reads, parses and checks the manifest of a checkpoint's folder.
Manifest read_manifest(const std::filesystem::path& checkpoint);

}  // namespace trestle::checkpoint
