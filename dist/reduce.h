// The arithmetic of reductions, one definition for numbers and tensors, for every backend. LOCAL.
#pragma once
#include "dist/communicator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <type_traits>

namespace trestle::dist {

/// A bfloat16 as it travels: the upper half of a float.
struct Bfloat16 {
  /// To the nearest, ties to even. A NaN stays one.
  static Bfloat16 rounded(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const std::uint32_t nearest = is_nan ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
    return {static_cast<std::uint16_t>(nearest >> 16)};
  }

  std::uint16_t bits;
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

/// What is added: elements of this type on the wire, and of that type in the sum.
enum class Arithmetic { float32, float64, int64, bfloat16_to_float32 };

/// f.operator()<In, T>() with the types of an arithmetic.
auto with_types(Arithmetic arithmetic, auto&& f) {
  switch (arithmetic) {
    case Arithmetic::float32:
      return f.template operator()<float, float>();
    case Arithmetic::float64:
      return f.template operator()<double, double>();
    case Arithmetic::int64:
      return f.template operator()<int64_t, int64_t>();
    case Arithmetic::bfloat16_to_float32:
      break;
  }
  return f.template operator()<Bfloat16, float>();
}

/// into[i] = into[i] op from[i] for count elements; the arrays do not overlap. Callers apply it in
/// rank order. For max and min a NaN on either side stays.
template <class T, class In>
void combine(T* __restrict into, const In* __restrict from, int64_t count, ReduceOp op) {
  // NOLINTBEGIN(misc-redundant-expression): only NaN differs from itself
  const auto other = [&](int64_t i) { return static_cast<T>(from[i]); };
  switch (op) {
    case ReduceOp::sum:
      for (int64_t i = 0; i < count; ++i) into[i] += other(i);
      return;
    case ReduceOp::max:
      for (int64_t i = 0; i < count; ++i) {
        if (other(i) > into[i] || other(i) != other(i)) into[i] = other(i);
      }
      return;
    case ReduceOp::min:
      for (int64_t i = 0; i < count; ++i) {
        if (other(i) < into[i] || other(i) != other(i)) into[i] = other(i);
      }
      return;
  }
  // NOLINTEND(misc-redundant-expression)
}

/// out[i] = parts[0][i] op parts[1][i] op ..., from left to right, in type T. `out` may be one of
/// the parts; in bfloat16 it holds the rounded results.
template <class T, class In, class Out>
void combine_in_order(std::span<const In* const> parts, int64_t count, Out* out, ReduceOp op) {
  std::array<T, 1024> sums{};  // stays in the nearest cache while all parts pass by
  constexpr auto kBlock = static_cast<int64_t>(sums.size());
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t length = std::min(kBlock, count - begin);
    std::transform(parts[0] + begin, parts[0] + begin + length, sums.begin(),
                   [](In value) { return static_cast<T>(value); });
    for (const In* part : parts.subspan(1)) combine(sums.data(), part + begin, length, op);
    if constexpr (std::is_same_v<Out, T>) {
      std::copy_n(sums.begin(), length, out + begin);
    } else {
      std::transform(sums.begin(), sums.begin() + length, out + begin, Out::rounded);
    }
  }
}

}  // namespace trestle::dist
