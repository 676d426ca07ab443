#include "trainers/optim/fused_adamw_cpu.h"

#include "models/nn/vector_math.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

// The clones for processors with FMA would turn a * b + c into one rounding, and others not: then a
// run's bits would depend on the processor, and differ from AdamW's. Little is lost: the pass
// mostly waits for memory.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace trestle::trainers {
namespace {

// What a loop works on before the next loop reads it again: with all planes it stays in the first
// cache. Each loop alone is short enough for gcc to vectorise.
constexpr std::int64_t kTile = 512;
// What a thread takes at least.
constexpr std::int64_t kGrain = 32 * kTile;

TRESTLE_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
TRESTLE_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Four or two roots at a time, by hand: std::sqrt may set errno, so gcc leaves it scalar. Wider
// registers take as much longer as they hold more.
TRESTLE_INLINE void roots(const float* from, float* to, std::int64_t count) {
  std::int64_t i = 0;
#ifdef __SSE2__
  for (; i + 4 <= count; i += 4) _mm_storeu_ps(to + i, _mm_sqrt_ps(_mm_loadu_ps(from + i)));
#endif
  for (; i < count; ++i) to[i] = std::sqrt(from[i]);
}

TRESTLE_INLINE void roots(const double* from, double* to, std::int64_t count) {
  std::int64_t i = 0;
#ifdef __SSE2__
  for (; i + 2 <= count; i += 2) _mm_storeu_pd(to + i, _mm_sqrt_pd(_mm_loadu_pd(from + i)));
#endif
  for (; i < count; ++i) to[i] = std::sqrt(from[i]);
}

template <class Scalar>
TRESTLE_INLINE void moments(const Scalar* __restrict gradient, Scalar* __restrict exp_avg,
                            Scalar* __restrict exp_avg_sq, const AdamWFactors<Scalar>& factors,
                            std::int64_t count) {
  const AdamWFactors<Scalar> f = factors;
  for (std::int64_t i = 0; i < count; ++i) {
    const Scalar g = gradient[i] * f.gradient_scale;
    exp_avg[i] += f.one_minus_beta1 * (g - exp_avg[i]);
    exp_avg_sq[i] = f.beta2 * exp_avg_sq[i] + f.one_minus_beta2 * g * g;
  }
}

template <class Scalar>
TRESTLE_INLINE void descend(Scalar* __restrict master, const Scalar* __restrict exp_avg,
                            const Scalar* __restrict root, const AdamWFactors<Scalar>& factors,
                            std::int64_t count) {
  const AdamWFactors<Scalar> f = factors;
  for (std::int64_t i = 0; i < count; ++i) {
    master[i] = master[i] * f.keep -
                f.step_size * exp_avg[i] / (root[i] / f.root_bias_correction2 + f.epsilon);
  }
}

template <class Scalar>
TRESTLE_INLINE void average(const Scalar* __restrict master, Scalar* __restrict values,
                            Scalar weight, std::int64_t count) {
  if (weight < Scalar(0.5)) {
    for (std::int64_t i = 0; i < count; ++i)
      values[i] = fused(weight, master[i] - values[i], values[i]);
  } else {  // from the other end, so that a weight of 1 copies exactly
    const Scalar back = weight - 1;
    for (std::int64_t i = 0; i < count; ++i)
      values[i] = fused(back, master[i] - values[i], master[i]);
  }
}

/// To the nearest bf16, ties to even; NaN stays NaN (ATen's bit pattern).
TRESTLE_INLINE void to_bfloat16(const float* __restrict from, std::uint16_t* __restrict to,
                                std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    to[i] = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
  }
}
TRESTLE_INLINE void to_bfloat16(const double*, std::uint16_t*, std::int64_t) {}  // never asked for

template <class Scalar>
TRESTLE_INLINE void pass(const AdamWPlanes<Scalar>& p, const AdamWFactors<Scalar>& factors,
                         std::int64_t begin, std::int64_t end) {
  alignas(64) Scalar root[kTile];
  for (std::int64_t at = begin; at < end; at += kTile) {
    const std::int64_t count = std::min(kTile, end - at);
    moments(p.gradient + at, p.exp_avg + at, p.exp_avg_sq + at, factors, count);
    roots(p.exp_avg_sq + at, root, count);
    descend(p.master + at, p.exp_avg + at, root, factors, count);
    const auto bytes = static_cast<std::size_t>(count) * sizeof(Scalar);
    if (p.zero_gradient) std::memset(p.gradient + at, 0, bytes);
    if (p.parameter != nullptr) std::memcpy(p.parameter + at, p.master + at, bytes);
    if (p.bfloat16_parameter != nullptr)
      to_bfloat16(p.master + at, p.bfloat16_parameter + at, count);
    for (const auto& plane : p.averages)
      average(p.master + at, plane.values + at, plane.weight, count);
  }
}

// Clones are made of functions, not of templates.
TRESTLE_CLONES void pass_of_floats(const AdamWPlanes<float>& planes,
                                   const AdamWFactors<float>& factors, std::int64_t begin,
                                   std::int64_t end) {
  pass(planes, factors, begin, end);
}

TRESTLE_CLONES void pass_of_doubles(const AdamWPlanes<double>& planes,
                                    const AdamWFactors<double>& factors, std::int64_t begin,
                                    std::int64_t end) {
  pass(planes, factors, begin, end);
}

}  // namespace

void adamw_pass_cpu(const AdamWPlanes<float>& planes, const AdamWFactors<float>& factors,
                    std::int64_t count) {
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    pass_of_floats(planes, factors, begin, end);
  });
}

void adamw_pass_cpu(const AdamWPlanes<double>& planes, const AdamWFactors<double>& factors,
                    std::int64_t count) {
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    pass_of_doubles(planes, factors, begin, end);
  });
}

}  // namespace trestle::trainers
