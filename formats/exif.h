// Which way up a photograph was taken: the orientation that cameras write into EXIF.
//
// LOCAL. THREADS: any.
#pragma once
#include "formats/picture.h"

#include <cstddef>
#include <span>

namespace trestle::formats {

/// The orientation tag, 1 to 8, of an EXIF block (which starts with its TIFF header). 1, "as it
/// is", where there is none or the block makes no sense: it is about the picture, not of it.
int exif_orientation(std::span<const std::byte> tiff);

/// The picture as it is meant to be looked at: turned and mirrored as its orientation says.
Picture upright(Picture picture, int orientation);

}  // namespace trestle::formats
