#include "formats/picture_file.h"

#include "base/error.h"
#include "base/files.h"
#include "formats/jpeg.h"
#include "formats/png.h"

#include <string>
#include <string_view>

namespace trestle::formats {
namespace {

constexpr std::string_view kPngMagic = "\x89PNG\r\n\x1a\n";
constexpr std::string_view kJpegMagic = "\xff\xd8\xff";

/// More than the largest picture takes in 8-bit RGB, however badly it was compressed.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{4} << 30;

}  // namespace

Picture read_picture(const std::filesystem::path& path) {
  const std::string file = read_text_file(path, kMaxFileBytes, ExitCode::data);
  const auto bytes = std::as_bytes(std::span(file));
  if (file.starts_with(kPngMagic)) return decode_png(bytes, path.string());
  if (file.starts_with(kJpegMagic)) return decode_jpeg(bytes, path.string());
  fail(ExitCode::data, "{} is not a picture that can be read ({}). Convert it to PNG or JPEG.",
       path.string(),
       file.empty() ? "it is empty" : "its first bytes are neither a PNG's nor a JPEG's");
}

}  // namespace trestle::formats
