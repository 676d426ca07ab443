// A tokenizer.json. With one that was accepted every text gets ids that it has, as many as are
// asked for where it is padded, and the ids decode.
#include "tests/fuzz/tokenizer.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  fuzz::accepted(ExitCode::data, [&] {
    fuzz::use({.folder = "tokenizer", .tokenizer_json = std::string(fuzz::text(bytes, size))});
  });
  return 0;
}
