// The weights of one model in safetensors files: one file, or several with an index beside them, as
// hub folders hold them (diffusers: diffusion_pytorch_model, transformers: model).
//
// An index is {"metadata": {"total_size": N}, "weight_map": {TENSOR: FILE}}. Read strictly: every
// shard is there, in the index's own folder, and whole; it holds exactly the tensors that the index
// says, and all of them take total_size bytes. What does not agree is said in one error, all of it.
//
// LOCAL. THREADS: as SafetensorsFile.
//   const auto weights = ShardedSafetensors::open("sana/transformer");
//   for (const SafetensorsFile& shard : weights.shards()) ... shard.entries() ...
#pragma once
#include "formats/safetensors.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

class ShardedSafetensors {
 public:
  /// `path`: a folder, an index or a single file. `variant` picks among the files of a folder
  /// ("fp16": diffusion_pytorch_model.fp16.safetensors); without one, none with one is taken.
  /// Errors: ExitCode::data.
  static ShardedSafetensors open(const std::filesystem::path& path, std::string_view variant = {});

  const std::filesystem::path& path() const { return path_; }  ///< the file or the index
  const std::vector<SafetensorsFile>& shards() const { return shards_; }

 private:
  std::filesystem::path path_;
  std::vector<SafetensorsFile> shards_;  // by name
};

/// The index of such files, before any of them has been looked at.
struct ShardIndex {
  std::map<std::string, std::string> file_of;  ///< tensor -> file, a plain name
  std::int64_t total_bytes = -1;               ///< -1: it does not say
};

/// Errors: ExitCode::data, naming `name_for_errors`.
ShardIndex parse_shard_index(std::string_view text, std::string_view name_for_errors);

/// Writes STEM.safetensors, or where that would take more than `max_shard_bytes` of tensors,
/// STEM-00001-of-0000N.safetensors and the index; the tensors are divided in their order, and one
/// that is larger has a shard of its own. Files of an earlier writing under this stem are replaced.
/// Errors: as write_safetensors.
void write_sharded_safetensors(const std::filesystem::path& folder, const std::string& stem,
                               std::span<const TensorToWrite> tensors,
                               std::uint64_t max_shard_bytes,
                               const std::map<std::string, std::string>& metadata = {});

}  // namespace trestle::formats
