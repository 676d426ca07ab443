#include "checkpoint/plan.h"

#include <algorithm>

namespace trestle::checkpoint {
namespace {

/// total * part / parts without overflow.
std::uint64_t fraction(std::uint64_t total, int part, int parts) {
  const auto p = static_cast<std::uint64_t>(part), n = static_cast<std::uint64_t>(parts);
  return total / n * p + total % n * p / n;
}

/// The element at which byte `cut` of all tensors falls, for the tensor that starts at `start`.
std::uint64_t element_at(std::uint64_t cut, std::uint64_t start, const TensorSize& tensor,
                         std::uint64_t share_bytes) {
  const std::uint64_t bytes = tensor.elements * tensor.element_bytes;
  if (cut <= start) return 0;
  if (cut >= start + bytes) return tensor.elements;
  if (bytes <= share_bytes / 100) return cut - start < bytes / 2 ? 0 : tensor.elements;
  return (cut - start) / tensor.element_bytes;
}

}  // namespace

std::vector<ElementRange> share_of(std::span<const TensorSize> tensors, int rank, int world) {
  std::uint64_t total = 0;
  for (const TensorSize& tensor : tensors) total += tensor.elements * tensor.element_bytes;
  const std::uint64_t share_bytes = total / static_cast<std::uint64_t>(world);
  const std::uint64_t first = fraction(total, rank, world);
  const std::uint64_t last = fraction(total, rank + 1, world);

  std::vector<ElementRange> share;
  share.reserve(tensors.size());
  std::uint64_t start = 0;
  for (const TensorSize& tensor : tensors) {
    share.push_back({element_at(first, start, tensor, share_bytes),
                     element_at(last, start, tensor, share_bytes)});
    start += tensor.elements * tensor.element_bytes;
  }
  return share;
}

}  // namespace trestle::checkpoint
