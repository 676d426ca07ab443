// LoRA adapters in and out of safetensors files, as diffusers' load_lora_weights() reads and
// save_lora_weights() writes them (pytorch_lora_weights.safetensors).
//
//   auto loaded = weights::load_adapter("pytorch_lora_weights.safetensors", parameters, "style");
//   weights::write_adapter(path, loaded.parameters, loaded.config);
//
// Read are the names of formats/lora_names.h, mixed as they come, and every tensor of the file
// finds its layer or the file is refused. alpha is what the header says (formats/lora_metadata.h);
// without a header it is each layer's rank. Written are lora_A, lora_B and lora_magnitude_vector
// only, under "transformer.", with a header. LOCAL. THREADS: loading may not run beside a call of
// the model. ERRORS: Error(data), naming the file and each tensor that cannot be used.
#pragma once
#include "models/nn/lora.h"
#include "models/nn/parameters.h"

#include <filesystem>
#include <string>
#include <vector>

namespace trestle::models::weights {

struct LoadedAdapter {
  nn::LoraConfig config;  ///< with it write_adapter() writes a file that means the same
  std::vector<nn::NamedParameter> parameters;
};

/// Adds the file's adapter to the model under `name`. `dtype` is LoraConfig's.
LoadedAdapter load_adapter(const std::filesystem::path& path, nn::Parameters& model,
                           const std::string& name, const std::string& dtype = "float32");

/// `adapter` holds what add_adapter() named, whatever the values are (masters, averages).
void write_adapter(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& adapter, const nn::LoraConfig& config);

}  // namespace trestle::models::weights
