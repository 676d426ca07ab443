#include "checkpoint/tensor_bytes.h"

#include "base/error.h"
#include "formats/hdf5.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <utility>

namespace trestle::checkpoint {
namespace {

using formats::ElementType;

constexpr std::array<std::pair<at::ScalarType, ElementType>, formats::kH5Types.size()> kDtypes = {{
    {at::kDouble, ElementType::float64},
    {at::kFloat, ElementType::float32},
    {at::kHalf, ElementType::float16},
    {at::kBFloat16, ElementType::bfloat16},
    {at::kLong, ElementType::int64},
    {at::kInt, ElementType::int32},
    {at::kByte, ElementType::uint8},
    {at::kBool, ElementType::boolean},
}};
static_assert(std::ranges::all_of(kDtypes,
                                  [](auto& row) { return formats::h5_holds(row.second); }));

}  // namespace

std::optional<formats::ElementType> element_type_of(at::ScalarType dtype) {
  for (const auto& [held, type] : kDtypes)
    if (held == dtype) return type;
  return std::nullopt;
}

at::ScalarType scalar_type_of(formats::ElementType type) {
  const auto row = std::ranges::find(kDtypes, type, [](auto& r) { return r.second; });
  TRESTLE_ASSERT(row != kDtypes.end(), "checkpoints hold no {}", formats::element_name(type));
  return row->first;
}

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  TRESTLE_ASSERT(tensor.is_cpu() && tensor.is_contiguous(), "the tensor has no bytes of its own");
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace trestle::checkpoint
