#include "models/weights/dtypes.h"

#include <array>
#include <utility>

namespace trestle::models::weights {
namespace {

using formats::ElementType;

/// In the order of the enumeration.
constexpr std::array<std::pair<ElementType, at::ScalarType>, formats::kElementTypes.size()>
    kDtypes = {{
        {ElementType::boolean, at::kBool},
        {ElementType::uint8, at::kByte},
        {ElementType::int8, at::kChar},
        {ElementType::float8_e5m2, at::kFloat8_e5m2},
        {ElementType::float8_e4m3fn, at::kFloat8_e4m3fn},
        {ElementType::float8_e8m0fnu, at::kFloat8_e8m0fnu},
        {ElementType::int16, at::kShort},
        {ElementType::uint16, at::kUInt16},
        {ElementType::float16, at::kHalf},
        {ElementType::bfloat16, at::kBFloat16},
        {ElementType::int32, at::kInt},
        {ElementType::uint32, at::kUInt32},
        {ElementType::float32, at::kFloat},
        {ElementType::complex64, at::kComplexFloat},
        {ElementType::float64, at::kDouble},
        {ElementType::int64, at::kLong},
        {ElementType::uint64, at::kUInt64},
    }};
static_assert([] {
  for (std::size_t i = 0; i < kDtypes.size(); ++i)
    if (kDtypes[i].first != static_cast<ElementType>(i)) return false;
  return true;
}());

}  // namespace

at::ScalarType scalar_type_of(ElementType type) {
  return kDtypes[static_cast<std::size_t>(type)].second;
}

std::optional<ElementType> element_type_of(at::ScalarType dtype) {
  for (const auto& [stored, computed] : kDtypes)
    if (computed == dtype) return stored;
  return std::nullopt;
}

}  // namespace trestle::models::weights
