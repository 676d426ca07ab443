// PNG pictures: any colour type and bit depth in, 8-bit RGB in and out.
//
// What becomes of a file on reading: palettes and grey are expanded (a colour beyond the palette is
// black), 16-bit samples are scaled to 8 (rounded), and alpha is DROPPED, not composited: the
// colours stored under it come back. Samples are taken as they are stored; gamma, colour profiles,
// text and other chunks that hold no samples are skipped unread. Of an animated PNG the default
// picture is read. A wrong checksum, a missing end and whatever else libpng warns about are errors.
//
// LOCAL. THREADS: any.
//   Picture picture = read_png("cat.png");
//   write_png("runs/x/samples/step-00000100.png", picture);
#pragma once
#include "formats/picture.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace trestle::formats {

/// Errors: ExitCode::data, naming the file.
Picture read_png(const std::filesystem::path& path);

/// The same from memory; `name` stands for the file in errors.
Picture decode_png(std::span<const std::byte> png, std::string_view name);

/// 8-bit RGB marked as sRGB. The same picture always gives the same bytes (of one libpng and zlib).
std::vector<std::byte> encode_png(const Picture& picture);

/// Written beside `path` and renamed, so a reader never sees half a picture. The folder must exist.
/// Errors: ExitCode::environment.
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace trestle::formats
