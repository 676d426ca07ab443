// A tokenizer.model, as tokenizer_json.cpp has it.
#include "tests/fuzz/tokenizer.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  fuzz::accepted(ExitCode::data, [&] {
    fuzz::use({.folder = "tokenizer",
               .tokenizer_model = std::string(fuzz::text(bytes, size)),
               .tokenizer_config = R"({"add_bos_token": true})"});
  });
  return 0;
}
