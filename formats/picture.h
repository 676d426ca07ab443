// A picture in memory, as every reader and writer in this room gives and takes it.
#pragma once
#include <cstdint>
#include <vector>

namespace trestle::formats {

/// Larger pictures are refused on reading and never written.
inline constexpr int kMaxPictureSide = 65535;
inline constexpr std::int64_t kMaxPicturePixels = std::int64_t{1} << 30;

/// 8-bit RGB, row-major, interleaved: pixel (x, y) begins at rgb[3 * (y * width + x)].
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;

  bool operator==(const Picture&) const = default;
};

}  // namespace trestle::formats
