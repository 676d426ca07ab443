#include "checkpoint/tensor_bytes.h"

#include "base/error.h"

#include <ATen/ATen.h>

namespace trestle::checkpoint {

std::optional<formats::ElementType> element_type_of(at::ScalarType dtype) {
  using formats::ElementType;
  switch (dtype) {
    case at::kDouble:
      return ElementType::float64;
    case at::kFloat:
      return ElementType::float32;
    case at::kHalf:
      return ElementType::float16;
    case at::kBFloat16:
      return ElementType::bfloat16;
    case at::kLong:
      return ElementType::int64;
    case at::kInt:
      return ElementType::int32;
    case at::kByte:
      return ElementType::uint8;
    case at::kBool:
      return ElementType::boolean;
    default:
      return std::nullopt;
  }
}

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  TRESTLE_ASSERT(tensor.is_cpu() && tensor.is_contiguous(), "the tensor has no bytes of its own");
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace trestle::checkpoint
