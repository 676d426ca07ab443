// The arithmetic of reductions, one definition for numbers and tensors, for every backend. LOCAL.
#pragma once
#include "dist/communicator.h"

#include <cstdint>

namespace trestle::dist {

/// into[i] = into[i] op from[i] for count elements; the arrays do not overlap. Callers apply it in
/// rank order. For max and min a NaN on either side stays.
template <class T>
void combine(T* __restrict into, const T* __restrict from, int64_t count, ReduceOp op) {
  // NOLINTBEGIN(misc-redundant-expression): only NaN differs from itself
  switch (op) {
    case ReduceOp::sum:
      for (int64_t i = 0; i < count; ++i) into[i] += from[i];
      return;
    case ReduceOp::max:
      for (int64_t i = 0; i < count; ++i) {
        if (from[i] > into[i] || from[i] != from[i]) into[i] = from[i];
      }
      return;
    case ReduceOp::min:
      for (int64_t i = 0; i < count; ++i) {
        if (from[i] < into[i] || from[i] != from[i]) into[i] = from[i];
      }
      return;
  }
  // NOLINTEND(misc-redundant-expression)
}

}  // namespace trestle::dist
