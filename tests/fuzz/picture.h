// What is demanded of a picture that a reader accepted: as many bytes as its sides say, none of
// them beyond what the reader allows.
#pragma once
#include "formats/picture.h"
#include "formats/png.h"
#include "tests/fuzz/fuzz.h"

namespace trestle::fuzz {

inline void demand_whole(const formats::Picture& picture) {
  demand(picture.width > 0 && picture.width <= formats::kMaxPictureSide, "the width is allowed");
  demand(picture.height > 0 && picture.height <= formats::kMaxPictureSide, "the height is allowed");
  demand(picture.rgb.size() == std::size_t{3} * picture.width * picture.height,
         "the bytes are as many as the sides say");
}

}  // namespace trestle::fuzz
