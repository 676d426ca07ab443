// A list of JSON objects, one a line, as it names the pictures of a dataset.
#include "formats/jsonl.h"

#include "tests/formats/hostile.h"
#include "tests/fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static trestle::testing::MemoryFile file;
  file.put(fuzz::text(bytes, size));
  std::int64_t last = 0;
  fuzz::accepted(ExitCode::data, [&] {
    formats::for_each_json_line(file.path(), [&](const formats::JsonLine& line) {
      fuzz::demand(line.number() > last, "lines come in order");
      last = line.number();
      (void)formats::required_string(line, "source");
    });
  });
  return 0;
}
