#include "base/torch/tensor_summary.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle {
namespace {

std::uint64_t count(const at::Tensor& which) {
  return static_cast<std::uint64_t>(which.sum().item<std::int64_t>());
}

}  // namespace

void TensorSummariser::add(const at::Tensor& values) {
  const at::Tensor flat = values.reshape({-1}).to(at::kDouble);
  so_far_.elements += static_cast<std::uint64_t>(flat.numel());
  for (std::int64_t i = 0; i < flat.numel() && so_far_.first.size() < first_shown_; ++i)
    so_far_.first.push_back(flat[i].item<double>());
  so_far_.zeros += count(flat == 0);
  so_far_.nans += count(at::isnan(flat));
  so_far_.infinities += count(at::isinf(flat));
  const at::Tensor finite = flat.masked_select(at::isfinite(flat));
  if (finite.numel() == 0) return;
  const double low = finite.min().item<double>(), high = finite.max().item<double>();
  so_far_.min = finite_ == 0 ? low : std::min(so_far_.min, low);
  so_far_.max = finite_ == 0 ? high : std::max(so_far_.max, high);
  finite_ += static_cast<std::uint64_t>(finite.numel());
  sum_ += finite.sum().item<double>();
}

TensorSummary TensorSummariser::summary() const {
  TensorSummary summary = so_far_;
  if (finite_ > 0) summary.mean = sum_ / double(finite_);
  return summary;
}

}  // namespace trestle
