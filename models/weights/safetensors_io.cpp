#include "models/weights/safetensors_io.h"

#include "base/error.h"
#include "models/weights/dtypes.h"

#include <ATen/ATen.h>

namespace trestle::models::weights {
namespace {

/// Tensors as bytes; `alive` keeps the copies that this takes.
std::vector<formats::TensorToWrite> parts_of(const std::vector<nn::NamedParameter>& tensors,
                                             std::vector<at::Tensor>& alive) {
  std::vector<formats::TensorToWrite> parts;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
    const auto dtype = element_type_of(plain.scalar_type());
    TRESTLE_ASSERT(dtype, "{} has a dtype that safetensors lack", name);
    alive.push_back(plain);
    parts.push_back(
        {.name = name,
         .dtype = *dtype,
         .shape = plain.sizes().vec(),
         .bytes = {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()}});
  }
  return parts;
}

}  // namespace

void write_tensors(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> alive;
  formats::write_safetensors(path, parts_of(tensors, alive), metadata);
}

void write_folder(const std::filesystem::path& folder, const std::string& stem,
                  const std::vector<nn::NamedParameter>& tensors, std::uint64_t max_shard_bytes,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> alive;
  formats::write_sharded_safetensors(folder, stem, parts_of(tensors, alive), max_shard_bytes,
                                     metadata);
}

}  // namespace trestle::models::weights
