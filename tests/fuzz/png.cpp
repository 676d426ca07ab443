// PNG pictures. Bytes are tried as they are and again with the right checksum in every chunk: an
// invented chunk has none, and would never get past the first check.
#include "formats/png.h"

#include "tests/fuzz/picture.h"

#include <array>
#include <vector>

using namespace trestle;

namespace {

constexpr std::size_t kSignatureBytes = 8;
constexpr std::size_t kChunkFrameBytes = 12;  // length, type, checksum

std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < made.size(); ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = (made[i] >> 1) ^ (made[i] & 1 ? 0xEDB88320U : 0);
    }
    return made;
  }();
  std::uint32_t crc = ~0U;
  for (const std::uint8_t byte : bytes) crc = (crc >> 8) ^ table[(crc ^ byte) & 255];
  return ~crc;
}

std::vector<std::uint8_t> with_checksums(std::span<const std::uint8_t> bytes) {
  std::vector<std::uint8_t> png(bytes.begin(), bytes.end());
  std::size_t at = kSignatureBytes;
  while (at + kChunkFrameBytes <= png.size()) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | png[at + i];
    if (length > png.size() - at - kChunkFrameBytes) break;
    const std::uint32_t crc = crc32(std::span(png).subspan(at + 4, 4 + length));
    for (std::size_t i = 0; i < 4; ++i) {
      png[at + 8 + length + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    at += kChunkFrameBytes + length;
  }
  return png;
}

void decode(std::span<const std::uint8_t> png) {
  fuzz::accepted(ExitCode::data,
                 [&] { fuzz::demand_whole(formats::decode_png(std::as_bytes(png), "fuzz.png")); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::span<const std::uint8_t> raw(bytes, size);
  decode(raw);
  const std::vector<std::uint8_t> mended = with_checksums(raw);
  if (!std::ranges::equal(mended, raw)) decode(mended);
  return 0;
}
