// The one place that says which counter a draw has; included by the CPU and the CUDA filler.
#pragma once
#include "base/philox.h"

#include <cstdint>

namespace trestle::detail {

enum class DrawKind { uniform, normal };

/// Draws number 4 * block ... 4 * block + 3 of a sample's row.
TRESTLE_HOST_DEVICE inline void draw_block(std::uint64_t seed, std::int64_t position,
                                           std::uint32_t purpose, std::uint32_t block,
                                           DrawKind kind, float out[4]) {
  const auto p = static_cast<std::uint64_t>(position);
  const PhiloxCounter bits = philox4x32(
      {{block, static_cast<std::uint32_t>(p), static_cast<std::uint32_t>(p >> 32), purpose}},
      {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}});
  if (kind == DrawKind::normal) {
    normals_from_bits(bits.word[0], bits.word[1], &out[0], &out[1]);
    normals_from_bits(bits.word[2], bits.word[3], &out[2], &out[3]);
  } else {
    for (int i = 0; i < 4; ++i) out[i] = uniform_from_bits(bits.word[i]);
  }
}

/// Fills out[row * row_size + i]; both pointers are device memory, the current stream is used.
void fill_draws_cuda(float* out, const std::int64_t* positions, std::int64_t num_rows,
                     std::int64_t row_size, std::uint64_t seed, std::uint32_t purpose,
                     DrawKind kind);

}  // namespace trestle::detail
