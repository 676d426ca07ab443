// A tokenizer_config.json, and the same bytes as special_tokens_map.json, beside a good tokenizer.
// (A tokenizer.model: a tokenizer.json takes much longer to read, and meets the same rules.)
#include "tests/fuzz/tokenizer.h"
#include "tests/support/tiny_tokenizer.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const std::string model = testing::tiny_tokenizer_model();
  const std::string config(fuzz::text(bytes, size));
  models::text::TokenizerFiles files{.folder = "tokenizer", .tokenizer_model = model};
  files.tokenizer_config = config;
  fuzz::accepted(ExitCode::data, [&] { fuzz::use(files); });
  files.tokenizer_config.reset();
  files.special_tokens_map = config;
  fuzz::accepted(ExitCode::data, [&] { fuzz::use(files); });
  return 0;
}
