#include "base/torch/finite.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>

namespace trestle {
namespace {

constexpr std::int64_t kGrain = 1 << 15;

/// All bits of the exponent set: inf or nan. On bits, because compilers vectorise that.
template <class Bits>
bool any_special(const Bits* bits, std::int64_t count, Bits exponent) {
  std::atomic<bool> found = false;
  at::parallel_for(0, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    Bits special = 0;
    for (std::int64_t i = begin; i < end; ++i)
      special |= static_cast<Bits>((bits[i] & exponent) == exponent);
    if (special != 0) found = true;
  });
  return found;
}

}  // namespace

bool all_finite(const at::Tensor& tensor) {
  if (!tensor.is_floating_point() || tensor.numel() == 0) return true;
  if (tensor.device().is_cpu() && tensor.is_contiguous()) {
    const void* data = tensor.const_data_ptr();
    const std::int64_t count = tensor.numel();
    switch (tensor.scalar_type()) {
      case at::kFloat:
        return !any_special(static_cast<const std::uint32_t*>(data), count, 0x7f800000u);
      case at::kDouble:
        return !any_special(static_cast<const std::uint64_t*>(data), count,
                            std::uint64_t{0x7ff0} << 48);
      case at::kBFloat16:
        return !any_special<std::uint16_t>(static_cast<const std::uint16_t*>(data), count, 0x7f80);
      default:
        break;
    }
  }
  return at::isfinite(tensor).all().item<bool>();
}

}  // namespace trestle
