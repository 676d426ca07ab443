#include "formats/jpeg.h"

#include "base/error.h"
#include "formats/exif.h"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdint>
#include <cstdio>  // before jpeglib.h, which needs it and does not include it
#include <jerror.h>
#include <jpeglib.h>
#include <utility>

namespace trestle::formats {
namespace {

/// The cheapest block is one bit of Huffman code and at most 32 x 32 pixels. A header that promises
/// more for the bytes at hand is a lie, and is found out before anything is allocated for it.
constexpr std::uint64_t kMaxPixelsPerByte = std::uint64_t{8} * 32 * 32;

/// Each scan of a progressive picture passes over all of it, so many scans of few bytes would take
/// for ever. Encoders write about ten.
constexpr int kMaxScans = 100;

constexpr std::array<std::byte, 6> kExifMark = {std::byte{'E'}, std::byte{'x'}, std::byte{'i'},
                                                std::byte{'f'}, std::byte{0},   std::byte{0}};

/// libjpeg reports errors by longjmp, which runs no destructors. So everything that must be
/// destroyed lives outside the functions that call setjmp: in members here, or in the caller.
class JpegReader {
 public:
  explicit JpegReader(std::span<const std::byte> source) : source_(source) {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    errors_.emit_message = on_message;
    jpeg_.client_data = this;
  }
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  /// Everything before the pixels. False: see problem().
  bool read_header() {
    if (setjmp(escape_)) return false;
    jpeg_create_decompress(&jpeg_);
    progress_.progress_monitor = on_progress;
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(source_.data()), source_.size());
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg_, /*require_image=*/TRUE);
    return true;
  }

  std::uint64_t width() const { return jpeg_.image_width; }
  std::uint64_t height() const { return jpeg_.image_height; }
  J_COLOR_SPACE color_space() const { return jpeg_.jpeg_color_space; }

  /// Before read_rows(), which forgets the markers.
  int orientation() const {
    for (auto marker = jpeg_.marker_list; marker != nullptr; marker = marker->next) {
      const auto data = std::as_bytes(std::span(marker->data, marker->data_length));
      if (data.size() < kExifMark.size() ||
          !std::ranges::equal(data.first(kExifMark.size()), kExifMark)) {
        continue;
      }
      return exif_orientation(data.subspan(kExifMark.size()));
    }
    return 1;
  }

  /// All pixels as 8-bit RGB, height() rows of 3 * width() bytes, and the file to its end.
  bool read_rows(std::uint8_t* rgb) {
    if (setjmp(escape_)) return false;
    jpeg_.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = rgb + std::size_t{3} * jpeg_.output_width * jpeg_.output_scanline;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  std::string_view problem() const { return problem_; }

 private:
  static JpegReader& self(j_common_ptr jpeg) {
    return *static_cast<JpegReader*>(jpeg->client_data);
  }

  [[noreturn]] void leave() { std::longjmp(escape_, 1); }

  [[noreturn]] static void on_error(j_common_ptr jpeg) {
    jpeg->err->format_message(jpeg, self(jpeg).problem_);
    self(jpeg).leave();
  }

  /// Level -1 is a warning, others are traces. Those listed are about labels; all others, and
  /// stray bytes once pixels have begun, say that pixels were lost and filled with something.
  static void on_message(j_common_ptr jpeg, int level) {
    if (level >= 0) return;
    const int code = jpeg->err->msg_code;
    if (code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM || code == JWRN_NOT_SEQUENTIAL) return;
    const bool before_pixels = reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number == 0;
    if (code == JWRN_EXTRANEOUS_DATA && before_pixels) return;
    on_error(jpeg);
  }

  static void on_progress(j_common_ptr jpeg) {
    if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMaxScans) return;
    std::snprintf(self(jpeg).problem_, sizeof problem_, "more than %d scans", kMaxScans);
    self(jpeg).leave();
  }

  std::span<const std::byte> source_;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf escape_{};
  char problem_[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void refuse(std::string_view name, std::string_view reason) {
  fail(ExitCode::data,
       "{} cannot be read as a JPEG ({}). Replace the file, or convert it to PNG or an RGB JPEG.",
       name, reason);
}

void check_header(const JpegReader& reader, std::size_t file_bytes, std::string_view name) {
  const std::uint64_t width = reader.width();
  const std::uint64_t height = reader.height();
  if (width * height > kMaxPicturePixels) {  // libjpeg bounds the sides
    refuse(name, fmt::format("{} x {} pixels; at most {} in all are read", width, height,
                             kMaxPicturePixels));
  }
  if (width * height > file_bytes * kMaxPixelsPerByte) {
    refuse(name, fmt::format("its header promises {} x {} pixels, more than {} bytes can hold",
                             width, height, file_bytes));
  }
  switch (reader.color_space()) {
    case JCS_GRAYSCALE:
    case JCS_RGB:
    case JCS_YCbCr:
      return;
    case JCS_CMYK:
    case JCS_YCCK:
      refuse(name, "its colours are CMYK, for print; grey and RGB are read");
    default:
      refuse(name, "its colours are neither grey nor RGB");
  }
}

}  // namespace

Picture decode_jpeg(std::span<const std::byte> jpeg, std::string_view name) {
  JpegReader reader(jpeg);
  if (!reader.read_header()) refuse(name, reader.problem());
  check_header(reader, jpeg.size(), name);
  const int orientation = reader.orientation();

  Picture picture{static_cast<int>(reader.width()), static_cast<int>(reader.height()), {}};
  picture.rgb.resize(std::size_t{3} * reader.width() * reader.height());
  if (!reader.read_rows(picture.rgb.data())) refuse(name, reader.problem());
  return upright(std::move(picture), orientation);
}

}  // namespace trestle::formats
