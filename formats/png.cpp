#include "formats/png.h"

#include "base/error.h"
#include "base/files.h"

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string>

namespace trestle::formats {
namespace {

/// Deflate turns one byte into 1032 at the very most. A header that promises more than that for
/// the bytes at hand is a lie, and is found out before anything is allocated for it.
constexpr std::uint64_t kMaxDeflateRatio = 1032;

/// More than the largest picture takes in 8-bit RGB, however badly it was compressed.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{4} << 30;

/// libpng reports errors by longjmp, which runs no destructors. So everything that must be
/// destroyed lives outside the two functions that call setjmp: in members here, or in the caller.
class PngReader {
 public:
  explicit PngReader(std::span<const std::byte> source) : rest_(source) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    info_ = png_ != nullptr ? png_create_info_struct(png_) : nullptr;
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  /// Everything before the pixels. False: see problem().
  bool read_header() {
    if (png_ == nullptr || info_ == nullptr) return false;
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // ours are checked by the caller
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    // Chunks that do not change the samples are not parsed: a widespread but odd colour profile
    // must not spoil a picture, nor a compressed text fill the memory.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
    return true;
  }

  std::uint64_t width() const { return png_get_image_width(png_, info_); }
  std::uint64_t height() const { return png_get_image_height(png_, info_); }
  std::uint64_t bits_per_pixel() const {
    return std::uint64_t{png_get_bit_depth(png_, info_)} * png_get_channels(png_, info_);
  }

  /// All pixels as 8-bit RGB into height() rows of 3 * width() bytes, and the file to its end.
  bool read_rows(png_bytep* rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    const int color_type = png_get_color_type(png_, info_);
    const int bit_depth = png_get_bit_depth(png_, info_);
    if (color_type == PNG_COLOR_TYPE_PALETTE) {
      png_set_palette_to_rgb(png_);
    } else if ((color_type & PNG_COLOR_MASK_COLOR) == 0) {
      if (bit_depth < 8) png_set_expand_gray_1_2_4_to_8(png_);
      png_set_gray_to_rgb(png_);
    }
    if (bit_depth == 16) png_set_scale_16(png_);
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != 3 * width()) png_error(png_, "rows are not 8-bit RGB");
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

  /// Empty while nothing was wrong. After a false it says why.
  std::string_view problem() const { return problem_; }

 private:
  static PngReader& self(png_structp png) {
    return *static_cast<PngReader*>(png_get_error_ptr(png));
  }
  void note(const char* text) { std::snprintf(problem_, sizeof problem_, "%s", text); }

  [[noreturn]] static void on_error(png_structp png, png_const_charp text) {
    self(png).note(text);
    png_longjmp(png, 1);
  }
  /// Left to run on, so that libpng is never interrupted where it does not expect it.
  static void on_warning(png_structp png, png_const_charp text) {
    if (self(png).problem().empty()) self(png).note(text);
  }
  static void on_read(png_structp png, png_bytep into, png_size_t count) {
    auto& rest = static_cast<PngReader*>(png_get_io_ptr(png))->rest_;
    if (count > rest.size()) png_error(png, "the file ends too early");
    std::memcpy(into, rest.data(), count);
    rest = rest.subspan(count);
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::span<const std::byte> rest_;
  char problem_[160] = "";
};

[[noreturn]] void refuse(std::string_view name, std::string_view reason) {
  fail(ExitCode::data,
       "{} cannot be read as a PNG ({}). Replace the file, or convert it to PNG again.", name,
       reason.empty() ? "out of memory" : reason);
}

void check_size(const PngReader& reader, std::size_t file_bytes, std::string_view name) {
  const std::uint64_t width = reader.width();
  const std::uint64_t height = reader.height();
  if (width > kMaxPictureSide || height > kMaxPictureSide || width * height > kMaxPicturePixels) {
    refuse(name, fmt::format("{} x {} pixels; at most {} a side and {} in all are read", width,
                             height, kMaxPictureSide, kMaxPicturePixels));
  }
  if (width * height * reader.bits_per_pixel() / 8 > file_bytes * kMaxDeflateRatio) {
    refuse(name, fmt::format("its header promises {} x {} pixels, more than {} bytes can hold",
                             width, height, file_bytes));
  }
}

}  // namespace

Picture decode_png(std::span<const std::byte> png, std::string_view name) {
  PngReader reader(png);
  if (!reader.read_header()) refuse(name, reader.problem());
  check_size(reader, png.size(), name);

  Picture picture{static_cast<int>(reader.width()), static_cast<int>(reader.height()), {}};
  const std::size_t row_bytes = 3 * reader.width();
  picture.rgb.resize(row_bytes * reader.height());
  std::vector<png_bytep> rows(reader.height());
  for (std::size_t y = 0; y < rows.size(); ++y) rows[y] = picture.rgb.data() + y * row_bytes;
  if (!reader.read_rows(rows.data()) || !reader.problem().empty()) refuse(name, reader.problem());
  return picture;
}

Picture read_png(const std::filesystem::path& path) {
  const std::string png = read_text_file(path, kMaxFileBytes, ExitCode::data);
  return decode_png(std::as_bytes(std::span(png)), path.string());
}

std::vector<std::byte> encode_png(const Picture& picture) {
  const bool size_ok = picture.width > 0 && picture.width <= kMaxPictureSide &&
                       picture.height > 0 && picture.height <= kMaxPictureSide &&
                       std::int64_t{picture.width} * picture.height <= kMaxPicturePixels;
  TRESTLE_ASSERT(size_ok && picture.rgb.size() == std::size_t{3} * picture.width * picture.height,
                 "a picture of {} x {} with {} bytes", picture.width, picture.height,
                 picture.rgb.size());
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::vector<std::byte> png(size);
  const int written = png_image_write_to_memory(&image, png.data(), &size, /*convert_to_8_bit=*/0,
                                                picture.rgb.data(), /*row_stride=*/0, nullptr);
  TRESTLE_ASSERT(written, "libpng could not encode a picture: {}", image.message);
  png.resize(size);
  return png;
}

void write_png(const std::filesystem::path& path, const Picture& picture) {
  const std::vector<std::byte> png = encode_png(picture);
  const std::string_view bytes(reinterpret_cast<const char*>(png.data()), png.size());
  write_file_atomic(path, bytes, ExitCode::environment);
}

}  // namespace trestle::formats
