// JPEG pictures, with the EXIF block that says which way up they are.
#include "formats/jpeg.h"

#include "tests/fuzz/picture.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  fuzz::accepted(ExitCode::data, [&] {
    fuzz::demand_whole(formats::decode_jpeg(std::as_bytes(std::span(bytes, size)), "fuzz.jpg"));
  });
  return 0;
}
