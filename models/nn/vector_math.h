// Small pieces of the fused CPU kernels: function clones per instruction set, sixteen floats at a
// time, and a vectorisable exponential. Included by kernel files only. LOCAL, single-threaded.
#pragma once
#include <cstdint>
#include <cstring>

// One clone per instruction set, picked when the program starts; the loops are written so that gcc
// vectorises them as they stand.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define TRESTLE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRESTLE_CLONES
#endif
#define TRESTLE_INLINE inline __attribute__((always_inline))

// Lanes never cross a real call: everything below is inlined into one clone.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace trestle::models::nn::fused {

/// Sixteen floats the compiler keeps in registers. Sums that plain loops would leave scalar (float
/// addition may not be reordered) are written with these.
using Lanes = float __attribute__((vector_size(64)));
constexpr std::int64_t kLanes = 16;

TRESTLE_INLINE Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

TRESTLE_INLINE void store(float* to, const Lanes& lanes) { std::memcpy(to, &lanes, sizeof lanes); }

TRESTLE_INLINE float sum(const Lanes& lanes) {
  float halves[kLanes];
  store(halves, lanes);
  for (std::int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::int64_t i = 0; i < width; ++i) halves[i] += halves[i + width];
  }
  return halves[0];
}

/// Copies a short run of floats; a call of memcpy for each would cost more than the copy.
TRESTLE_INLINE void copy(const float* from, float* to, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Lanes lanes = load(from + i);
#if defined(__GNUC__) && !defined(__clang__)
    asm("" : "+m"(*to));  // or gcc recognises memcpy and calls it
#endif
    store(to + i, lanes);
  }
  for (; i < count; ++i) to[i] = from[i];
}

/// The smallest multiple of `step` that is at least n.
constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) {
  return (n + step - 1) / step * step;
}

/// The first `count` floats, zeros beyond.
TRESTLE_INLINE Lanes load_part(const float* from, std::int64_t count) {
  Lanes lanes{};
  std::memcpy(&lanes, from, static_cast<std::size_t>(count) * sizeof(float));
  return lanes;
}

TRESTLE_INLINE void store_part(float* to, const Lanes& lanes, std::int64_t count) {
  std::memcpy(to, &lanes, static_cast<std::size_t>(count) * sizeof(float));
}

// e^x to about 1 ulp: x = n ln2 + r, a degree-6 polynomial in r (Cephes' coefficients), 2^n put
// into the exponent bits. Clamped to where the result is a normal float.
//
// Lanes and not a plain loop over floats: there gcc turns the clamp into branches and computes each
// branch's end for every element, and products such as x · sigmoid(-88) are denormals, which cost a
// hundred cycles apiece.
TRESTLE_INLINE Lanes exponential(Lanes x) {
  using Bits = std::int32_t __attribute__((vector_size(64)));
  constexpr float kLog2e = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const Lanes round = Lanes{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Lanes low = Lanes{} - 87.0f, high = Lanes{} + 88.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Lanes shifted = x * kLog2e + round;
  const Lanes n = shifted - round;
  const Lanes r = (x - n * kLn2High) - n * kLn2Low;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Lanes e = p * r * r + r + 1.0f;
  const Bits exponent = (Bits)shifted - (Bits)round;  // casts of vectors keep the bits
  return e * (Lanes)((exponent + 127) << 23);
}

TRESTLE_INLINE Lanes sigmoid(const Lanes& x) { return 1.0f / (1.0f + exponential(-x)); }

TRESTLE_INLINE Lanes silu(const Lanes& x) { return x * sigmoid(x); }

/// d silu(x) / dx, given s = sigmoid(x).
TRESTLE_INLINE Lanes silu_slope(const Lanes& x, const Lanes& s) {
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace trestle::models::nn::fused
