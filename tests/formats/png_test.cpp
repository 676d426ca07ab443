// PNG in and out. The files that are read here are put together chunk by chunk in this file, with
// stored (uncompressed) deflate blocks, so that libpng is judged by something other than itself.
#include "formats/png.h"

#include "base/error.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <sys/stat.h>

namespace trestle::formats {
namespace {

using trestle::testing::damaged;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;
using trestle::testing::SmallDisk;

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::uint32_t crc32(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320U : 0);
  }
  return ~crc;
}

std::string chunk(const std::string& type, const std::string& data) {
  return big_endian(static_cast<std::uint32_t>(data.size())) + type + data +
         big_endian(crc32(type + data));
}

std::string zlib_stored(const std::string& data) {
  std::uint32_t a = 1;
  std::uint32_t b = 0;
  for (const char byte : data) {
    a = (a + static_cast<std::uint8_t>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  const auto size = static_cast<std::uint16_t>(data.size());
  std::string result = "\x78\x01\x01";
  for (const int field : {size & 255, size >> 8, ~size & 255, (~size >> 8) & 255}) {
    result += static_cast<char>(field);
  }
  return result + data + big_endian(b << 16 | a);
}

enum ColorType { kGray = 0, kRgb = 2, kPalette = 3, kGrayAlpha = 4, kRgbAlpha = 6 };
int channels_of(ColorType type) { return std::array{1, 0, 3, 1, 2, 0, 4}.at(type); }

/// A picture of samples as a PNG file holds them.
struct Samples {
  ColorType type;
  int bit_depth;
  int width;
  int height;
  std::vector<int> values = {};  // row-major, channels interleaved

  int at(int x, int y, int channel) const {
    return values[static_cast<std::size_t>((y * width + x) * channels_of(type) + channel)];
  }
};

const std::string kSignature = "\x89PNG\r\n\x1a\n";
const std::string kEnd = chunk("IEND", "");

std::string header(std::uint32_t width, std::uint32_t height, int bit_depth, int type,
                   bool interlaced = false) {
  const std::array<int, 5> tail = {bit_depth, type, 0, 0, interlaced};
  return chunk("IHDR",
               big_endian(width) + big_endian(height) + std::string(tail.begin(), tail.end()));
}

/// The pixels (x0 + i dx, y0 + j dy) as unfiltered, packed rows.
std::string packed_rows(const Samples& picture, int x0, int y0, int dx, int dy) {
  std::string rows;
  for (int y = y0; x0 < picture.width && y < picture.height; y += dy) {
    std::string bits;
    for (int x = x0; x < picture.width; x += dx) {
      for (int channel = 0; channel < channels_of(picture.type); ++channel) {
        for (int bit = picture.bit_depth - 1; bit >= 0; --bit) {
          bits += static_cast<char>(picture.at(x, y, channel) >> bit & 1);
        }
      }
    }
    bits.resize((bits.size() + 7) / 8 * 8);
    rows += '\0';  // filter: none
    for (std::size_t i = 0; i < bits.size(); i += 8) {
      rows += static_cast<char>(std::accumulate(&bits[i], &bits[i] + 8, 0,
                                                [](int sum, int bit) { return 2 * sum + bit; }));
    }
  }
  return rows;
}

/// palette[i] of the palette pictures here.
std::array<std::uint8_t, 3> palette_color(int index) {
  return {static_cast<std::uint8_t>(7 * index + 1), static_cast<std::uint8_t>(255 - index),
          static_cast<std::uint8_t>(31 * index)};
}

std::string palette_chunk(int colors) {
  std::string palette;
  for (int index = 0; index < colors; ++index) {
    for (const std::uint8_t value : palette_color(index)) palette += static_cast<char>(value);
  }
  return chunk("PLTE", palette);
}

std::string make_png(const Samples& picture, bool interlaced, const std::string& more_chunks = "") {
  std::string rows;
  if (interlaced) {
    constexpr int kAdam7[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                  {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    for (const auto& [x0, y0, dx, dy] : kAdam7) rows += packed_rows(picture, x0, y0, dx, dy);
  } else {
    rows = packed_rows(picture, 0, 0, 1, 1);
  }
  std::string file = kSignature + header(static_cast<std::uint32_t>(picture.width),
                                         static_cast<std::uint32_t>(picture.height),
                                         picture.bit_depth, picture.type, interlaced);
  if (picture.type == kPalette) file += palette_chunk(1 << picture.bit_depth);
  return file + more_chunks + chunk("IDAT", zlib_stored(rows)) + kEnd;
}

Samples random_samples(ColorType type, int bit_depth, int width, int height) {
  std::mt19937 random(static_cast<std::uint32_t>(1000 * type + bit_depth));
  Samples picture{type, bit_depth, width, height};
  picture.values.resize(static_cast<std::size_t>(width * height * channels_of(type)));
  for (int& value : picture.values) value = static_cast<int>(random() % (1U << bit_depth));
  return picture;
}

/// What reading must give, by the words of png.h.
Picture expected(const Samples& picture) {
  Picture result{picture.width, picture.height, {}};
  const int max = (1 << picture.bit_depth) - 1;
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < picture.width; ++x) {
      for (int channel = 0; channel < 3; ++channel) {
        const bool gray = picture.type == kGray || picture.type == kGrayAlpha;
        const int value = picture.at(x, y, gray || picture.type == kPalette ? 0 : channel);
        const int scaled = (2 * value * 255 + max) / (2 * max);
        result.rgb.push_back(picture.type == kPalette
                                 ? palette_color(value)[static_cast<std::size_t>(channel)]
                                 : static_cast<std::uint8_t>(scaled));
      }
    }
  }
  return result;
}

Picture decode(const std::string& file) {
  return decode_png(std::as_bytes(std::span(file)), "cat.png");
}

std::string refusal_of(const std::string& file) {
  return refusal(ExitCode::data, [&] { decode(file); });
}

Picture random_picture(int width, int height) {
  return expected(random_samples(kRgb, 8, width, height));
}

std::string encoded(const Picture& picture) {
  const std::vector<std::byte> png = encode_png(picture);
  return {reinterpret_cast<const char*>(png.data()), png.size()};
}

TEST(Png, EveryColorTypeAndBitDepthBecomesRgb) {
  const std::vector<std::pair<ColorType, std::vector<int>>> kinds = {{kGray, {1, 2, 4, 8, 16}},
                                                                     {kRgb, {8, 16}},
                                                                     {kPalette, {1, 2, 4, 8}},
                                                                     {kGrayAlpha, {8, 16}},
                                                                     {kRgbAlpha, {8, 16}}};
  for (const auto& [type, bit_depths] : kinds) {
    for (const int bit_depth : bit_depths) {
      for (const bool interlaced : {false, true}) {
        SCOPED_TRACE(fmt::format("type {} depth {} interlaced {}", static_cast<int>(type),
                                 bit_depth, interlaced));
        const Samples picture = random_samples(type, bit_depth, 13, 11);
        EXPECT_EQ(decode(make_png(picture, interlaced)), expected(picture));
      }
    }
  }
}

TEST(Png, TransparencyAndColorManagementDoNotTouchTheSamples) {
  const std::string gamma = chunk("gAMA", big_endian(100000));
  const std::string profile = chunk("iCCP", "not a profile");
  const std::string text = chunk("tEXt", "no keyword");
  for (const ColorType type : {kGray, kRgb, kPalette}) {
    const Samples picture = random_samples(type, 8, 9, 4);
    const std::size_t size = type == kPalette ? 3 : 2 * static_cast<std::size_t>(channels_of(type));
    const std::string transparent = chunk("tRNS", std::string(size, '\0'));
    const std::string file = make_png(picture, false, gamma + profile + transparent + text);
    EXPECT_EQ(decode(file), expected(picture));
  }
}

TEST(Png, WhatIsWrittenIsReadBack) {
  const ScratchFolder folder;
  for (const auto& [width, height] : std::vector<std::pair<int, int>>{{1, 1}, {1, 300}, {301, 7}}) {
    const Picture picture = random_picture(width, height);
    const auto path = folder.path() / "a.png";
    write_png(path, picture);
    EXPECT_EQ(read_png(path), picture);
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(Png, APictureThatCannotBeWrittenLeavesTheOldOne) {
  SmallDisk disk(64 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  const Picture small = random_picture(8, 8);
  const auto path = disk.path() / "a.png";
  write_png(path, small);
  const std::string message =
      refusal(ExitCode::environment, [&] { write_png(path, random_picture(300, 300)); });
  EXPECT_NE(message.find("could not be written (No space left"), std::string::npos) << message;
  EXPECT_EQ(read_png(path), small);
}

TEST(Png, FilesThatAreNoPictureAreNamed) {
  const ScratchFolder folder;
  const auto refusal_of_file = [](const std::filesystem::path& path) {
    return refusal(ExitCode::data, [&] { read_png(path); });
  };
  EXPECT_NE(refusal_of_file(folder.path() / "none.png").find("none.png"), std::string::npos);
  EXPECT_NE(refusal_of_file(folder.path()).find("not a regular file"), std::string::npos);
  const auto pipe = folder.path() / "pipe.png";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_NE(refusal_of_file(pipe).find("not a regular file"), std::string::npos);
  const auto path = folder.path() / "cat.png";
  put_file(path, "\xff\xd8\xff\xe0 a JPEG that was renamed");
  EXPECT_NE(refusal_of_file(path).find("cat.png cannot be read as a PNG (Not a PNG file)"),
            std::string::npos);
}

TEST(Png, HostileHeadersAllocateNothing) {
  const auto with_header = [](std::uint32_t width, std::uint32_t height, int depth, int type) {
    return refusal_of(kSignature + header(width, height, depth, type) +
                      chunk("IDAT", zlib_stored(std::string(9000, '\0'))) + kEnd);
  };
  EXPECT_NE(with_header(65536, 1, 1, kGray).find("65536 x 1 pixels; at most 65535"),
            std::string::npos);
  EXPECT_NE(with_header(40000, 40000, 1, kGray).find("40000 x 40000 pixels; at most"),
            std::string::npos);
  EXPECT_NE(with_header(0x7fffffff, 0x7fffffff, 16, kRgbAlpha).find("pixels; at most"),
            std::string::npos);
  EXPECT_NE(with_header(30000, 30000, 8, kRgb).find("more than 9068 bytes can hold"),
            std::string::npos);
  EXPECT_NE(with_header(0, 1, 8, kRgb), "");
  EXPECT_NE(with_header(1, 0xffffffff, 8, kRgb), "");
  EXPECT_NE(with_header(1, 1, 3, kRgb), "");
  EXPECT_NE(with_header(1, 1, 8, 5), "");
}

TEST(Png, WhatLibpngOnlyWarnsAboutIsAnError) {
  const Samples gray = random_samples(kGray, 8, 4, 4);
  EXPECT_NE(refusal_of(make_png(gray, false, chunk("tRNS", "123"))), "");  // of a wrong length
  std::string file = make_png(gray, false);
  file.insert(file.find("IDAT") - 4, chunk("IDAT", ""));
  EXPECT_EQ(decode(file), expected(gray));  // odd but legal
  file = make_png(gray, false, palette_chunk(2));
  EXPECT_NE(refusal_of(file).find("PLTE"), std::string::npos);
}

TEST(Png, ColorsBeyondThePaletteAreBlack) {
  Samples picture = random_samples(kPalette, 8, 4, 4);
  picture.values.assign(16, 200);
  std::string file = make_png(picture, false);
  const std::string full = palette_chunk(256);
  file.replace(file.find(full), full.size(), palette_chunk(100));
  EXPECT_EQ(decode(file).rgb, std::vector<std::uint8_t>(48, 0));
}

TEST(Png, EveryTruncationAndEveryChangedByteIsNoticed) {
  for (const std::string& file :
       {encoded(random_picture(9, 7)), make_png(random_samples(kPalette, 4, 9, 7), true)}) {
    EXPECT_EQ(refusal_of(file), "");
    for (std::size_t i = 0; i < file.size(); ++i) {
      EXPECT_NE(refusal_of(file.substr(0, i)), "") << "cut at " << i;
      std::string changed = file;
      changed[i] = static_cast<char>(changed[i] ^ (1 << i % 8));
      EXPECT_NE(refusal_of(changed), "") << "changed at " << i;
    }
  }
}

TEST(Png, DamageEndsInAnErrorOrAPicture) {
  // The checksums catch nearly all damage of a whole file. So damage is also done below them, and
  // reaches the header, the inflater and the rows.
  std::array<int, 4> pictures = {};
  for (std::uint32_t seed = 0; seed < 6000; ++seed) {
    const ColorType type = std::array{kGray, kRgb, kPalette, kGrayAlpha, kRgbAlpha}[seed % 5];
    const Samples picture = random_samples(type, 8, 12, 9);
    const auto layer = seed / 5 % 4;
    std::string rows = packed_rows(picture, 0, 0, 1, 1);
    std::string head = header(12, 9, 8, type).substr(8, 13);
    if (layer == 0) head = damaged(head, seed);
    if (layer == 1) rows = damaged(rows, seed);
    std::string pixels = zlib_stored(rows);
    if (layer == 2) pixels = damaged(pixels, seed);
    std::string file =
        kSignature + chunk("IHDR", head) + palette_chunk(256) + chunk("IDAT", pixels) + kEnd;
    if (type == kGray || type == kGrayAlpha) {
      file = kSignature + chunk("IHDR", head) + chunk("IDAT", pixels) + kEnd;
    }
    if (layer == 3) file = damaged(file, seed);
    try {
      const Picture result = decode(file);
      EXPECT_EQ(result.rgb.size(), std::size_t{3} * result.width * result.height);
      ++pictures[layer];
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
  }
  EXPECT_GT(pictures[1], 100);  // a sample of another value is a picture still
  for (const int count : pictures) EXPECT_LT(count, 1500);
  RecordProperty("pictures", fmt::format("{}", fmt::join(pictures, " ")));
}

}  // namespace
}  // namespace trestle::formats
