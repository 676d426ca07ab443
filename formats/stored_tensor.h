// Where a tensor's bytes lie in a file of weights, whatever the file's format.
#pragma once
#include "formats/element_type.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace trestle::formats {

struct StoredTensor {
  std::string name;
  ElementType dtype = ElementType::float32;
  std::vector<std::int64_t> shape;    ///< [] is a scalar
  std::vector<std::int64_t> strides;  ///< in elements; empty: row-major, one after the other
  std::size_t file = 0;               ///< which one, where there are several
  std::uint64_t begin_bytes = 0;      ///< of the first element, from the start of the file
  std::uint64_t span_bytes = 0;       ///< from there to the end of the last element

  /// Elements of the tensor. Its reader has checked that this fits.
  std::int64_t elements() const {
    std::int64_t product = 1;
    for (const std::int64_t size : shape) product *= size;
    return product;
  }
};

/// Whether elements with these strides lie one after the other in row-major order.
inline bool is_row_major(const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides) {
  if (std::ranges::count(shape, 0) > 0) return true;
  std::int64_t expected = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

/// A name from a foreign file for a message: a terminal takes no orders from it.
inline std::string plain_name(std::string name) {
  for (char& c : name)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return name;
}

}  // namespace trestle::formats
