#include "dist/flat_group.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle::dist {
namespace {

std::vector<std::int64_t> numels(const std::vector<NamedLeaf>& leaves) {
  std::vector<std::int64_t> result;
  for (const NamedLeaf& leaf : leaves) result.push_back(leaf.tensor.numel());
  return result;
}

BucketOptions with_element(BucketOptions options, at::ScalarType dtype) {
  options.element_bytes = static_cast<std::int64_t>(c10::elementSize(dtype));
  return options;
}

}  // namespace

at::ScalarType sum_dtype_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

FlatGroup::FlatGroup(std::string name, std::vector<NamedLeaf> leaves, BucketOptions options)
    : name_(std::move(name)),
      leaves_(std::move(leaves)),
      sum_dtype_(sum_dtype_of(leaves_.empty() ? at::kFloat : leaves_[0].tensor.scalar_type())),
      plan_(numels(leaves_), with_element(options, sum_dtype_)) {
  if (leaves_.empty()) {
    values_ = at::zeros({0}, at::kFloat);
    return;
  }
  const at::Tensor& first = leaves_[0].tensor;
  values_ = at::zeros({plan_.numel()}, first.options().requires_grad(false));
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    at::Tensor& leaf = leaves_[i].tensor;
    TRESTLE_ASSERT(leaf.is_leaf() && leaf.is_floating_point() &&
                       leaf.scalar_type() == first.scalar_type() && leaf.device() == first.device(),
                   "parameter {} is no leaf, or of another dtype or device than {}",
                   leaves_[i].name, leaves_[0].name);
    const Placement& place = plan_.placements()[i];
    const at::Tensor view =
        values_.slice(0, place.offset, place.offset + place.numel).view(leaf.sizes());
    view.copy_(leaf.detach());
    leaf.set_data(view);
    // Before anything makes its gradient accumulator, which would keep the leaf's own dtype.
    if (leaf.scalar_type() != sum_dtype_) leaf.set_grad_dtype(sum_dtype_);
  }
}

}  // namespace trestle::dist
