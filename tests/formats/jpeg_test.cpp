// JPEG in. The files are encoded here by libjpeg; that the pixels are the right ones is judged by
// Pillow in picture_oracle.py.
#include "formats/jpeg.h"

#include "base/error.h"
#include "formats/exif.h"
#include "formats/picture_file.h"
#include "formats/png.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>  // before jpeglib.h
#include <cstdlib>
#include <jpeglib.h>
#include <sys/stat.h>

namespace trestle::formats {
namespace {

using trestle::testing::damaged;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;

struct Encoding {
  J_COLOR_SPACE samples = JCS_RGB;
  bool progressive = false;
  std::vector<jpeg_scan_info> scans = {};
  int restart_interval = 0;
  std::string app1 = {};
};

/// The picture's first channels as samples; quality 100 and full chroma, so little is lost.
std::string make_jpeg(const Picture& picture, const Encoding& encoding = {}) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};  // exits on an error, which a test may
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  jpeg.image_width = static_cast<JDIMENSION>(picture.width);
  jpeg.image_height = static_cast<JDIMENSION>(picture.height);
  jpeg.in_color_space = encoding.samples;
  jpeg.input_components =
      encoding.samples == JCS_GRAYSCALE ? 1 : (encoding.samples == JCS_CMYK ? 4 : 3);
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, 100, TRUE);
  for (int i = 0; i < jpeg.num_components; ++i) {
    jpeg.comp_info[i].h_samp_factor = jpeg.comp_info[i].v_samp_factor = 1;
  }
  if (encoding.progressive) jpeg_simple_progression(&jpeg);
  if (!encoding.scans.empty()) {
    jpeg.scan_info = encoding.scans.data();
    jpeg.num_scans = static_cast<int>(encoding.scans.size());
  }
  jpeg.restart_interval = static_cast<unsigned>(encoding.restart_interval);
  jpeg_start_compress(&jpeg, TRUE);
  if (!encoding.app1.empty()) {
    jpeg_write_marker(&jpeg, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(encoding.app1.data()),
                      static_cast<unsigned>(encoding.app1.size()));
  }
  for (int y = 0; y < picture.height; ++y) {
    std::vector<JSAMPLE> row;
    for (int x = 0; x < picture.width; ++x) {
      for (int c = 0; c < jpeg.input_components; ++c) {
        row.push_back(picture.rgb[static_cast<std::size_t>(3 * (y * picture.width + x) + c % 3)]);
      }
    }
    JSAMPROW rows = row.data();
    jpeg_write_scanlines(&jpeg, &rows, 1);
  }
  jpeg_finish_compress(&jpeg);
  std::string file(reinterpret_cast<const char*>(bytes), size);
  jpeg_destroy_compress(&jpeg);
  std::free(bytes);
  return file;
}

/// Smooth, and no two corners alike.
Picture gradient(int width, int height) {
  Picture picture{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      picture.rgb.push_back(static_cast<std::uint8_t>(255 * x / width));
      picture.rgb.push_back(static_cast<std::uint8_t>(255 * y / height));
      picture.rgb.push_back(static_cast<std::uint8_t>(255 - 128 * x / width - 120 * y / height));
    }
  }
  return picture;
}

Picture decode(const std::string& file) {
  return decode_jpeg(std::as_bytes(std::span(file)), "cat.jpg");
}

std::string refusal_of(const std::string& file) {
  return refusal(ExitCode::data, [&] { decode(file); });
}

int largest_difference(const Picture& a, const Picture& b) {
  if (a.width != b.width || a.height != b.height || a.rgb.size() != b.rgb.size()) return 999;
  int largest = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) {
    largest = std::max(largest, std::abs(int{a.rgb[i]} - int{b.rgb[i]}));
  }
  return largest;
}

/// An APP1 marker whose EXIF says this orientation, in the byte order of Intel or Motorola.
std::string exif(int orientation, bool intel) {
  const auto number = [&](int value, int size) {
    std::string bytes(static_cast<std::size_t>(size), '\0');
    for (int i = 0; i < size; ++i) {
      bytes[static_cast<std::size_t>(intel ? i : size - 1 - i)] = static_cast<char>(value >> 8 * i);
    }
    return bytes;
  };
  const auto entry = [&](int tag, int value) {
    return number(tag, 2) + number(3, 2) + number(1, 4) + number(value, 2) + number(0, 2);
  };
  return std::string("Exif\0\0", 6) + (intel ? "II" : "MM") + number(42, 2) + number(8, 4) +
         number(2, 2) + entry(0x0103, 6) + entry(0x0112, orientation) + number(0, 4);
}

TEST(Jpeg, BaselineAndProgressiveBecomeRgb) {
  const Picture picture = gradient(37, 21);
  for (const bool progressive : {false, true}) {
    const std::string file = make_jpeg(picture, {.progressive = progressive});
    EXPECT_LE(largest_difference(decode(file), picture), 3) << progressive;
  }
}

TEST(Jpeg, GreyIsExpanded) {
  Picture picture = gradient(24, 16);
  const std::string file = make_jpeg(picture, {.samples = JCS_GRAYSCALE});
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = picture.rgb[i / 3 * 3];
  EXPECT_LE(largest_difference(decode(file), picture), 1);
}

TEST(Jpeg, CmykIsRefusedByName) {
  const std::string message = refusal_of(make_jpeg(gradient(16, 16), {.samples = JCS_CMYK}));
  EXPECT_NE(message.find("cat.jpg cannot be read as a JPEG (its colours are CMYK"),
            std::string::npos)
      << message;
}

TEST(Jpeg, ExifOrientationTurnsThePicture) {
  const Picture picture = gradient(40, 24);
  const auto pixel = [](const Picture& p, int x, int y) {
    const auto* at = &p.rgb[static_cast<std::size_t>(3 * (y * p.width + x))];
    return std::array<int, 3>{at[0], at[1], at[2]};
  };
  // Where the first stored row and column are to be seen, by the words of the EXIF standard.
  struct Sides {
    const char *row, *column;
  };
  constexpr Sides kSides[] = {{"top", "left"},     {"top", "right"},  {"bottom", "right"},
                              {"bottom", "left"},  {"left", "top"},   {"right", "top"},
                              {"right", "bottom"}, {"left", "bottom"}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const auto [row, column] = kSides[orientation - 1];
    const auto is = [&](const char* side) {
      return std::string_view(row) == side || std::string_view(column) == side;
    };
    for (const bool intel : {false, true}) {
      SCOPED_TRACE(fmt::format("orientation {} intel {}", orientation, intel));
      const std::string stored = make_jpeg(picture);
      const Picture as_stored = decode(stored);
      const Picture shown = decode(make_jpeg(picture, {.app1 = exif(orientation, intel)}));
      ASSERT_EQ(shown.width, orientation < 5 ? 40 : 24);
      ASSERT_EQ(shown.height, orientation < 5 ? 24 : 40);
      const int x = is("left") ? 0 : shown.width - 1;
      const int y = is("top") ? 0 : shown.height - 1;
      EXPECT_EQ(pixel(shown, x, y), pixel(as_stored, 0, 0));
      // One step along the first stored row.
      const bool row_is_horizontal =
          row == std::string_view("top") || row == std::string_view("bottom");
      const int dx = row_is_horizontal ? (x == 0 ? 1 : -1) : 0;
      const int dy = row_is_horizontal ? 0 : (y == 0 ? 1 : -1);
      EXPECT_EQ(pixel(shown, x + 9 * dx, y + 9 * dy), pixel(as_stored, 9, 0));
    }
  }
}

TEST(Jpeg, ExifThatMakesNoSenseTurnsNothing) {
  const Picture picture = gradient(40, 24);
  const Picture plain = decode(make_jpeg(picture));
  const std::string good = exif(6, true);
  EXPECT_NE(decode(make_jpeg(picture, {.app1 = good})), plain);
  for (const int orientation : {0, 9, 255, 65535}) {
    EXPECT_EQ(decode(make_jpeg(picture, {.app1 = exif(orientation, false)})), plain);
  }
  EXPECT_EQ(decode(make_jpeg(picture, {.app1 = "XMP, which is another thing"})), plain);
  for (std::size_t size = 0; size < good.size() - 6; ++size) {  // the last field is not needed
    const int found = exif_orientation(std::as_bytes(std::span(good).subspan(6, size)));
    EXPECT_TRUE(found == 1 || size >= 31) << size;
  }
  for (std::uint32_t seed = 0; seed < 20000; ++seed) {
    const std::string block = damaged(good.substr(6), seed);
    const int found = exif_orientation(std::as_bytes(std::span(block)));
    EXPECT_TRUE(found >= 1 && found <= 8);
  }
}

TEST(Jpeg, EveryTruncationIsNoticed) {
  for (const bool progressive : {false, true}) {
    const std::string file = make_jpeg(gradient(33, 17), {.progressive = progressive});
    EXPECT_EQ(refusal_of(file), "");
    for (std::size_t size = 0; size < file.size(); ++size) {
      EXPECT_NE(refusal_of(file.substr(0, size)), "") << "cut at " << size;
    }
  }
}

TEST(Jpeg, LostPixelsAreAnErrorAndLabelsAreNot) {
  const Picture picture = gradient(64, 64);
  const std::string file = make_jpeg(picture, {.restart_interval = 4});
  const Picture whole = decode(file);
  const std::size_t restart = file.find("\xff\xd1");
  ASSERT_NE(restart, std::string::npos);

  std::string lost = file;  // a piece of the pixels is gone: 4 blocks between two restart markers
  lost.erase(restart, file.find("\xff\xd2") - restart);
  EXPECT_NE(refusal_of(lost).find("Corrupt JPEG data"), std::string::npos) << refusal_of(lost);
  std::string stray = file;
  stray.insert(stray.size() - 2, "junk");
  EXPECT_NE(refusal_of(stray).find("extraneous bytes"), std::string::npos);

  std::string labelled = file;
  labelled[11] = 9;  // of a JFIF that nobody knows
  EXPECT_EQ(decode(labelled), whole);
  labelled = file;
  labelled.insert(2, "junk");  // between two markers, before there are any pixels
  EXPECT_EQ(decode(labelled), whole);
  EXPECT_EQ(decode(file + "a thumbnail, a film, anything"), whole);
}

TEST(Jpeg, HostileHeadersAllocateNothing) {
  const std::string file = make_jpeg(gradient(16, 16));
  const std::size_t frame = file.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  const auto with_size = [&](int width, int height) {
    std::string changed = file;
    const std::array<int, 4> bytes = {height >> 8, height, width >> 8, width};
    for (std::size_t i = 0; i < 4; ++i) changed[frame + 5 + i] = static_cast<char>(bytes[i]);
    return refusal_of(changed);
  };
  EXPECT_NE(with_size(65000, 65000).find("65000 x 65000 pixels; at most"), std::string::npos);
  EXPECT_NE(with_size(30000, 30000).find("bytes can hold"), std::string::npos);
  EXPECT_NE(with_size(65535, 1), "");
  EXPECT_NE(with_size(0, 16), "");
  EXPECT_NE(with_size(16, 0), "");
  EXPECT_EQ(with_size(16, 16), "");
}

TEST(Jpeg, ScansWithoutEndAreRefused) {
  std::vector<jpeg_scan_info> scans = {{1, {0}, 0, 0, 0, 0}};
  for (int k = 1; k < 64; ++k) scans.push_back({1, {0}, k, k, 0, 1});  // all bits but the last
  const Picture picture = gradient(16, 16);
  const auto file = [&] { return make_jpeg(picture, {.samples = JCS_GRAYSCALE, .scans = scans}); };
  EXPECT_EQ(refusal_of(file()), "");
  for (int k = 1; k < 64; ++k) scans.push_back({1, {0}, k, k, 1, 0});
  EXPECT_NE(refusal_of(file()).find("more than 100 scans"), std::string::npos);
}

TEST(Jpeg, DamageEndsInAnErrorOrAPicture) {
  int pictures = 0, errors = 0;
  std::vector<std::string> files;
  for (const bool progressive : {false, true}) {
    files.push_back(
        make_jpeg(gradient(12, 9), {.progressive = progressive, .app1 = exif(6, true)}));
    files.push_back(
        make_jpeg(gradient(12, 9),
                  {.samples = JCS_GRAYSCALE, .progressive = progressive, .restart_interval = 1}));
  }
  for (std::uint32_t seed = 0; seed < 20000; ++seed) {
    try {
      const Picture picture = decode(damaged(files[seed % files.size()], seed));
      EXPECT_EQ(picture.rgb.size(), std::size_t{3} * picture.width * picture.height);
      ++pictures;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      ++errors;
    }
  }
  EXPECT_GT(pictures, 1000);  // JPEG has no checksums
  EXPECT_GT(errors, 10000);
}

TEST(PictureFile, WhatIsInsideDecidesAndNotTheName) {
  const ScratchFolder folder;
  const Picture picture = gradient(19, 8);
  const std::string jpeg = make_jpeg(picture);
  put_file(folder.path() / "a.png", jpeg);
  EXPECT_EQ(read_picture(folder.path() / "a.png"), decode(jpeg));
  write_png(folder.path() / "a.jpg", picture);
  EXPECT_EQ(read_picture(folder.path() / "a.jpg"), picture);
}

TEST(PictureFile, OtherFilesAreRefusedAndTheAcceptedFormatsNamed) {
  const ScratchFolder folder;
  const auto refusal_of_file = [](const std::filesystem::path& path) {
    return refusal(ExitCode::data, [&] { read_picture(path); });
  };
  const auto webp = folder.path() / "cat.webp";
  put_file(webp, "RIFF....WEBPVP8 ");
  EXPECT_NE(refusal_of_file(webp).find("neither a PNG's nor a JPEG's"), std::string::npos);
  EXPECT_NE(refusal_of_file(webp).find("cat.webp"), std::string::npos);
  put_file(webp, "");
  EXPECT_NE(refusal_of_file(webp).find("it is empty"), std::string::npos);
  EXPECT_NE(refusal_of_file(folder.path() / "none.png").find("none.png"), std::string::npos);
  EXPECT_NE(refusal_of_file(folder.path()).find("not a regular file"), std::string::npos);
  const auto pipe = folder.path() / "pipe.png";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_NE(refusal_of_file(pipe).find("not a regular file"), std::string::npos);
  put_file(folder.path() / "cut.png", "\x89PNG\r\n\x1a\n");
  EXPECT_NE(refusal_of_file(folder.path() / "cut.png").find("too early"), std::string::npos);
}

}  // namespace
}  // namespace trestle::formats
