// JPEG pictures: baseline and progressive, in colour or grey, as 8-bit RGB.
//
// What becomes of a file on reading: grey is expanded, YCbCr becomes RGB (libjpeg's exact integer
// transform and smooth chroma, as Pillow reads it too), and the picture is turned the way up that
// its EXIF orientation says. Colour profiles are not applied. Pictures in CMYK are refused: without
// their profile the colours would be a guess. A file that libjpeg had to patch up (cut off, with
// bits that make no code, with bytes left over) is an error, though other programs show it; so is
// one without its end.
//
// LOCAL. THREADS: any.
#pragma once
#include "formats/picture.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace trestle::formats {

/// `name` stands for the file in errors, which have ExitCode::data.
Picture decode_jpeg(std::span<const std::byte> jpeg, std::string_view name);

}  // namespace trestle::formats
