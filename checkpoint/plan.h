// Who writes which bytes: tensors that every rank holds are divided over the ranks.
//
// LOCAL, no torch. Every rank computes the same answer from the same sizes; nothing is exchanged.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace trestle::checkpoint {

struct TensorSize {
  std::uint64_t elements = 0;
  std::uint64_t element_bytes = 1;
};

/// A half-open range of elements of one flattened tensor.
struct ElementRange {
  std::uint64_t begin = 0, end = 0;
  bool operator==(const ElementRange&) const = default;
};

/// What `rank` of `world` writes of each tensor. All tensors, laid end to end, are cut at equal
/// distances, so at most world - 1 tensors are split, and no share differs from the mean by more
/// than 1 % of it plus one element: a cut that would fall inside a tensor smaller than 1 % of a
/// share moves to the nearer end of that tensor.
std::vector<ElementRange> share_of(std::span<const TensorSize> tensors, int rank, int world);

}  // namespace trestle::checkpoint
