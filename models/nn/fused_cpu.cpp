#include "models/nn/fused_cpu.h"

#include <bit>

// One clone per instruction set, picked when the program starts; the loops are written so that gcc
// vectorises them as they stand.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define TRESTLE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRESTLE_CLONES
#endif
#define TRESTLE_INLINE inline __attribute__((always_inline))

namespace trestle::models::nn::fused {
namespace {

// e^x to about 1 ulp: x = n ln2 + r, a degree-6 polynomial in r (Cephes' coefficients), 2^n put into
// the exponent bits. Clamped to where the result is a normal float.
TRESTLE_INLINE float exponential(float x) {
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * r * r + r + 1.0f;
  const auto exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  return e * std::bit_cast<float>((exponent + 127) << 23);
}

TRESTLE_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace

TRESTLE_CLONES void silu_forward(const float* __restrict x, float* __restrict y,
                                 std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] = x[i] * sigmoid(x[i]);
}

TRESTLE_CLONES void silu_backward(const float* __restrict x, const float* __restrict dy,
                                  float* __restrict dx, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float s = sigmoid(x[i]);
    dx[i] = dy[i] * s * (1.0f + x[i] * (1.0f - s));
  }
}

TRESTLE_CLONES void gated_silu_forward(const float* __restrict x, float* __restrict y,
                                       std::int64_t half) {
  const float* __restrict gate = x + half;
  for (std::int64_t i = 0; i < half; ++i) y[i] = x[i] * (gate[i] * sigmoid(gate[i]));
}

TRESTLE_CLONES void gated_silu_backward(const float* __restrict x, const float* __restrict dy,
                                        float* __restrict dx, std::int64_t half) {
  const float* __restrict gate = x + half;
  float* __restrict dgate = dx + half;
  for (std::int64_t i = 0; i < half; ++i) {
    const float s = sigmoid(gate[i]);
    dx[i] = dy[i] * (gate[i] * s);
    dgate[i] = dy[i] * x[i] * s * (1.0f + gate[i] * (1.0f - s));
  }
}

}  // namespace trestle::models::nn::fused
