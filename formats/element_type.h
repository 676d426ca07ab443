// The number types that files hold, without torch. Each format says which of them it takes.
#pragma once
#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace trestle::formats {

/// In the order in which safetensors files lay them out from last to first: write_safetensors
/// sorts by it, so a change of the order changes the bytes of files.
enum class ElementType {
  boolean,
  uint8,
  int8,
  float8_e5m2,
  float8_e4m3fn,
  float8_e8m0fnu,
  int16,
  uint16,
  float16,
  bfloat16,
  int32,
  uint32,
  float32,
  complex64,
  float64,
  int64,
  uint64
};

struct ElementTypeInfo {
  ElementType type;
  std::string_view name;  ///< torch's and, where it has the type, numpy's
  std::string_view safetensors_name;
  std::size_t bytes;
};

/// In the order of the enumeration.
inline constexpr std::array<ElementTypeInfo, 17> kElementTypes = {{
    {ElementType::boolean, "bool", "BOOL", 1},
    {ElementType::uint8, "uint8", "U8", 1},
    {ElementType::int8, "int8", "I8", 1},
    {ElementType::float8_e5m2, "float8_e5m2", "F8_E5M2", 1},
    {ElementType::float8_e4m3fn, "float8_e4m3fn", "F8_E4M3", 1},
    {ElementType::float8_e8m0fnu, "float8_e8m0fnu", "F8_E8M0", 1},
    {ElementType::int16, "int16", "I16", 2},
    {ElementType::uint16, "uint16", "U16", 2},
    {ElementType::float16, "float16", "F16", 2},
    {ElementType::bfloat16, "bfloat16", "BF16", 2},
    {ElementType::int32, "int32", "I32", 4},
    {ElementType::uint32, "uint32", "U32", 4},
    {ElementType::float32, "float32", "F32", 4},
    {ElementType::complex64, "complex64", "C64", 8},
    {ElementType::float64, "float64", "F64", 8},
    {ElementType::int64, "int64", "I64", 8},
    {ElementType::uint64, "uint64", "U64", 8},
}};
static_assert([] {
  for (std::size_t i = 0; i < kElementTypes.size(); ++i)
    if (kElementTypes[i].type != static_cast<ElementType>(i)) return false;
  return kElementTypes.back().type == ElementType::uint64;
}());

constexpr const ElementTypeInfo& element_info(ElementType type) {
  return kElementTypes[static_cast<std::size_t>(type)];
}
constexpr std::string_view element_name(ElementType type) { return element_info(type).name; }
constexpr std::string_view safetensors_name(ElementType type) {
  return element_info(type).safetensors_name;
}
constexpr std::size_t element_bytes(ElementType type) { return element_info(type).bytes; }

constexpr std::optional<ElementType> element_type_named(std::string_view name) {
  for (const ElementTypeInfo& info : kElementTypes)
    if (info.name == name) return info.type;
  return std::nullopt;
}

constexpr std::optional<ElementType> element_type_of_safetensors(std::string_view name) {
  for (const ElementTypeInfo& info : kElementTypes)
    if (info.safetensors_name == name) return info.type;
  return std::nullopt;
}

}  // namespace trestle::formats
