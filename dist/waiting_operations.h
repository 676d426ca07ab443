// Operations that ranks wait in, put together from the tables of all: who is in and who is missing.
// A part of the verdict (verdict.h).
//
// LOCAL. THREADS: any.
#pragma once
#include "dist/verdict.h"

#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

namespace trestle::dist {

/// The same operation, wherever it is issued.
using OperationKey = std::tuple<std::int64_t, std::vector<int>, std::int64_t>;

inline OperationKey key_of(const OperationState& operation) {
  return {operation.channel, operation.members, operation.sequence};
}

/// An operation that some ranks wait in.
struct Waited {
  const OperationState* operation = nullptr;  ///< as its longest waiter sees it
  double since_s = 0;
  std::vector<int> waiting, absent;
};

/// All operations that a rank is in and has not finished, the longest wait first. They point into
/// `ranks`.
std::vector<Waited> waited_operations(std::span<const RankView> ranks);

}  // namespace trestle::dist
