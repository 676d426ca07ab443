#include "dist/binding.h"
#include "dist/cuda/cuda_check.h"
#include "dist/gpu_assignment.h"

namespace trestle::dist {
namespace {

/// As nvidia-smi -L writes it: GPU-8d5b0a4e-....
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

}  // namespace

VisibleGpus visible_gpus() {
  VisibleGpus gpus{.host = host_name(), .uuids = {}};
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    return gpus;
  }
  TRESTLE_CUDA(code);
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    TRESTLE_CUDA(cudaGetDeviceProperties(&properties, index));
    gpus.uuids.push_back(uuid_text(properties.uuid));
  }
  return gpus;
}

}  // namespace trestle::dist
