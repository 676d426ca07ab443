// Tensors written as safetensors files. (Reading is source.h and load.h, which come along: who
// writes weights mostly reads them, too.)
// LOCAL. THREADS: any. ERRORS: as write_safetensors.
#pragma once
#include "models/nn/parameters.h"
#include "models/weights/load.h"
#include "models/weights/source.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace trestle::models::weights {

/// One file, of tensors made contiguous and brought to the CPU.
void write_tensors(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& tensors,
                   const std::map<std::string, std::string>& metadata = {});

/// A folder as diffusers and transformers load it: STEM.safetensors, or shards of at most so many
/// bytes and their index, the tensors in this order (formats/sharded_safetensors.h).
void write_folder(const std::filesystem::path& folder, const std::string& stem,
                  const std::vector<nn::NamedParameter>& tensors, std::uint64_t max_shard_bytes,
                  const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace trestle::models::weights
