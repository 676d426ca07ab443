#include "models/nn/fused_cpu.h"

#include "models/nn/vector_math.h"

#include <algorithm>

namespace trestle::models::nn::fused {
namespace {

/// What is left of `count` at i, at most kLanes.
TRESTLE_INLINE std::int64_t part(std::int64_t count, std::int64_t i) {
  return std::min(kLanes, count - i);
}

TRESTLE_INLINE Lanes read(const float* from, std::int64_t count) {
  return count == kLanes ? load(from) : load_part(from, count);
}

TRESTLE_INLINE void write(float* to, const Lanes& lanes, std::int64_t count) {
  if (count == kLanes)
    store(to, lanes);
  else
    store_part(to, lanes, count);
}

}  // namespace

TRESTLE_CLONES void silu_forward(const float* x, float* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t n = part(count, i);
    write(y + i, silu(read(x + i, n)), n);
  }
}

TRESTLE_CLONES void silu_backward(const float* x, const float* dy, float* dx, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::int64_t n = part(count, i);
    const Lanes value = read(x + i, n);
    write(dx + i, read(dy + i, n) * silu_slope(value, sigmoid(value)), n);
  }
}

}  // namespace trestle::models::nn::fused
