#include "formats/exif.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace trestle::formats {
namespace {

constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShort = 3;  // TIFF's name for two bytes
constexpr std::size_t kEntryBytes = 12;

/// Numbers in a TIFF block, in the block's own byte order; zero beyond its end.
class TiffBlock {
 public:
  explicit TiffBlock(std::span<const std::byte> bytes) : bytes_(bytes) {
    little_ = at(0) == 'I' && at(1) == 'I';
    valid_ = (little_ || (at(0) == 'M' && at(1) == 'M')) && number(2, 2) == 42;
  }
  bool valid() const { return valid_; }

  std::uint32_t number(std::size_t offset, std::size_t size) const {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value = value << 8 | at(offset + (little_ ? size - 1 - i : i));
    }
    return value;
  }

 private:
  std::uint32_t at(std::size_t offset) const {
    return offset < bytes_.size() ? std::to_integer<std::uint32_t>(bytes_[offset]) : 0;
  }

  std::span<const std::byte> bytes_;
  bool little_ = false, valid_ = false;
};

}  // namespace

int exif_orientation(std::span<const std::byte> tiff) {
  const TiffBlock block(tiff);
  if (!block.valid()) return 1;
  const std::size_t directory = block.number(4, 4);
  const std::size_t entries = block.number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntryBytes;
    if (block.number(entry, 2) != kOrientationTag) continue;
    const auto value = static_cast<int>(block.number(entry + 8, 2));
    const bool sound = block.number(entry + 2, 2) == kShort && value >= 1 && value <= 8;
    return sound ? value : 1;
  }
  return 1;
}

Picture upright(Picture picture, int orientation) {
  if (orientation <= 1) return picture;
  // 1 2 / 3 4 mirror and turn by half; 5 to 8 are the same with rows and columns exchanged. Where
  // the stored first row and column end up, by the table of the EXIF standard:
  const bool transposed = orientation >= 5;
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Picture turned{picture.width, picture.height, {}};
  if (transposed) std::swap(turned.width, turned.height);
  turned.rgb.resize(picture.rgb.size());
  std::uint8_t* out = turned.rgb.data();
  for (int y = 0; y < turned.height; ++y) {
    for (int x = 0; x < turned.width; ++x) {
      int column = transposed ? y : x;
      int row = transposed ? x : y;
      if (from_right) column = picture.width - 1 - column;
      if (from_bottom) row = picture.height - 1 - row;
      const std::size_t pixel = std::size_t(row) * picture.width + column;
      out = std::copy_n(picture.rgb.data() + 3 * pixel, 3, out);
    }
  }
  return turned;
}

}  // namespace trestle::formats
