// The number types that files hold, without torch. Names are torch's and numpy's.
#pragma once
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace trestle::formats {

enum class ElementType { float64, float32, float16, bfloat16, int64, int32, uint8, boolean };

struct ElementTypeInfo {
  ElementType type;
  std::string_view name;
  std::size_t bytes;
};

/// In the order of the enumeration.
inline constexpr std::array<ElementTypeInfo, 8> kElementTypes = {{
    {ElementType::float64, "float64", 8},
    {ElementType::float32, "float32", 4},
    {ElementType::float16, "float16", 2},
    {ElementType::bfloat16, "bfloat16", 2},
    {ElementType::int64, "int64", 8},
    {ElementType::int32, "int32", 4},
    {ElementType::uint8, "uint8", 1},
    {ElementType::boolean, "bool", 1},
}};

constexpr std::string_view element_name(ElementType type) {
  return kElementTypes[static_cast<std::size_t>(type)].name;
}

constexpr std::size_t element_bytes(ElementType type) {
  return kElementTypes[static_cast<std::size_t>(type)].bytes;
}

constexpr std::optional<ElementType> element_type_named(std::string_view name) {
  for (const ElementTypeInfo& info : kElementTypes)
    if (info.name == name) return info.type;
  return std::nullopt;
}

}  // namespace trestle::formats
