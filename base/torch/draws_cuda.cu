// CUDA side of Draws: one thread draws one block of four numbers.
#include "base/torch/draw_block.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

namespace trestle::detail {
namespace {

constexpr int kThreads = 256;

__global__ void fill_draws(float* out, const std::int64_t* positions, std::int64_t num_rows,
                           std::int64_t row_size, std::int64_t blocks, std::uint64_t seed,
                           std::uint32_t purpose, DrawKind kind) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < num_rows * blocks;
       i += stride) {
    const std::int64_t row = i / blocks;
    const std::int64_t block = i % blocks;
    float four[4];
    draw_block(seed, positions[row], purpose, static_cast<std::uint32_t>(block), kind, four);
    for (int k = 0; k < 4 && 4 * block + k < row_size; ++k) {
      out[row * row_size + 4 * block + k] = four[k];
    }
  }
}

}  // namespace

void fill_draws_cuda(float* out, const std::int64_t* positions, std::int64_t num_rows,
                     std::int64_t row_size, std::uint64_t seed, std::uint32_t purpose,
                     DrawKind kind) {
  const std::int64_t blocks = (row_size + 3) / 4;
  const std::int64_t wanted = (num_rows * blocks + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(wanted < 65535 ? wanted : 65535);
  fill_draws<<<grid, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      out, positions, num_rows, row_size, blocks, seed, purpose, kind);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace trestle::detail
