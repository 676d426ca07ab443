// A picture in memory, as every reader and writer in this room gives and takes it.
#pragma once
#include <cstdint>
#include <vector>

namespace trestle::formats {

/// 8-bit RGB, row-major, interleaved: pixel (x, y) begins at rgb[3 * (y * width + x)].
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;

  bool operator==(const Picture&) const = default;
};

}  // namespace trestle::formats
