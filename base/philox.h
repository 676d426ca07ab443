// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy
// as 1, 2, 3" (SC 2011), and the two maps that Trestle draws through: uniforms and normals.
//
// A draw is a pure function of (key, counter), so it depends on neither the rank, nor the number
// of ranks, nor what was drawn before. LOCAL. THREADS: any. Host and device compile the same lines.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define TRESTLE_HOST_DEVICE __host__ __device__
#else
#define TRESTLE_HOST_DEVICE
#endif

namespace trestle {

struct PhiloxCounter {
  std::uint32_t word[4];
};
struct PhiloxKey {
  std::uint32_t word[2];
};

/// Ten rounds: four 32-bit words for one counter.
TRESTLE_HOST_DEVICE inline PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53u;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.word[0],
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.word[1],
                static_cast<std::uint32_t>(product0)}};
    key.word[0] += kWeyl0;
    key.word[1] += kWeyl1;
  }
  return counter;
}

/// 24 bits to a float in [0, 1): every value is exact, so CPU and GPU agree to the bit.
TRESTLE_HOST_DEVICE inline float uniform_from_bits(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// Two words to two standard normals (Box-Muller, in double so that host and device libraries,
/// whose logarithms differ by an ulp, agree to float rounding).
TRESTLE_HOST_DEVICE inline void normals_from_bits(std::uint32_t bits0, std::uint32_t bits1,
                                                  float* normal0, float* normal1) {
  const double radius_uniform = (static_cast<double>(bits0) + 0.5) * 0x1p-32;  // in (0, 1)
  const double angle = static_cast<double>(bits1) * (0x1p-32 * 6.283185307179586476925);
  const double radius = std::sqrt(-2.0 * std::log(radius_uniform));
  *normal0 = static_cast<float>(radius * std::cos(angle));
  *normal1 = static_cast<float>(radius * std::sin(angle));
}

}  // namespace trestle
