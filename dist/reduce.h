// The arithmetic of reductions, one definition for numbers and tensors, for every backend. LOCAL.
#pragma once
#include "dist/communicator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>

namespace trestle::dist {

/// A bfloat16 as it travels: the upper half of a float.
struct Bfloat16 {
  std::uint16_t bits;
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

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

/// out[i] = parts[0][i] op parts[1][i] op ..., from left to right, in the type of `out`, which may
/// be one of the parts.
template <class T, class In>
void combine_in_order(std::span<const In* const> parts, int64_t count, T* out, ReduceOp op) {
  std::array<T, 1024> sums{};  // stays in the nearest cache while all parts pass by
  constexpr auto kBlock = static_cast<int64_t>(sums.size());
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t length = std::min(kBlock, count - begin);
    std::transform(parts[0] + begin, parts[0] + begin + length, sums.begin(),
                   [](In value) { return static_cast<T>(value); });
    for (const In* part : parts.subspan(1)) combine(sums.data(), part + begin, length, op);
    std::copy_n(sums.begin(), length, out + begin);
  }
}

}  // namespace trestle::dist
