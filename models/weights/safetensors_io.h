// Tensors in and out of safetensors files, and parameters filled from them under a strict contract:
// every parameter is found with its shape, and nothing is left over.
// LOCAL. THREADS: any. ERRORS: Error(data), naming the file and every tensor that differs.
#pragma once
#include "formats/safetensors.h"
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace trestle::models::weights {

/// One tensor, on the CPU, in the file's dtype.
at::Tensor read_tensor(const formats::SafetensorsFile& file, const formats::TensorEntry& entry);

/// All tensors of a file by name.
std::map<std::string, at::Tensor> read_all(const std::filesystem::path& path);

/// Fills every parameter, casting to its dtype.
void load_parameters(const std::filesystem::path& path, const nn::Parameters& parameters);

/// Writes the tensors in this order (made contiguous and brought to the CPU).
void write_tensors(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& tensors,
                   const std::map<std::string, std::string>& metadata = {});

}  // namespace trestle::models::weights
