#include "trainers/forward_gate.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>

namespace trestle::trainers {
namespace {

/// The elements of its storage that a tensor covers, gaps of its strides included.
dist::ElementSpan extent(const at::Tensor& tensor) {
  const std::size_t end =
      at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), /*itemsize=*/1,
                                       static_cast<std::size_t>(tensor.storage_offset()));
  return {tensor.storage_offset(), static_cast<std::int64_t>(end)};
}

}  // namespace

ForwardGate::ForwardGate(std::deque<ShardedGroup>& groups) : groups_(groups) {
  for (ShardedGroup& group : groups_) {
    if (group.is_gathering())
      by_storage_[group.flat().values().storage().unsafeGetStorageImpl()] = &group;
    else
      group.wait();
  }
  if (!by_storage_.empty()) watch_.emplace([this](const at::Tensor& t) { wait_for(t); });
}

void ForwardGate::open() {
  watch_.reset();
  if (failure_) std::rethrow_exception(failure_);
  for (ShardedGroup& group : groups_) group.wait();
}

void ForwardGate::wait_for(const at::Tensor& operand) {
  if (failure_ || !operand.has_storage() || operand.numel() == 0) return;
  const auto found = by_storage_.find(operand.storage().unsafeGetStorageImpl());
  if (found == by_storage_.end()) return;
  ShardedGroup& group = *found->second;
  const bool is_parameter = operand.scalar_type() == group.flat().dtype();
  try {
    group.wait_for(is_parameter ? extent(operand)
                                : dist::ElementSpan{0, group.flat().plan().numel()});
  } catch (...) {
    failure_ = std::current_exception();
  }
}

}  // namespace trestle::trainers
