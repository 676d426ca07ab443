// A safetensors file. All tensors of one that was accepted can be read, and together they are as
// large as the bytes behind the header.
#include "formats/safetensors.h"

#include "tests/formats/hostile.h"
#include "tests/fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static trestle::testing::MemoryFile memory;
  memory.put(fuzz::text(bytes, size));
  fuzz::accepted(ExitCode::data, [&] {
    const auto file = formats::SafetensorsFile::open(memory.path());
    std::size_t total = 0;
    for (const formats::TensorEntry& entry : file.entries()) {
      fuzz::demand(file.find(entry.name) == &entry, "a tensor is found by its name", entry.name);
      std::vector<std::byte> tensor(entry.size_bytes());
      file.read(entry, tensor);
      total += tensor.size();
    }
    fuzz::demand(total < size, "the tensors lie in the file");
    fuzz::demand(file.entries().empty() || file.entries().back().end_bytes == size,
                 "the last tensor ends with the file");
  });
  return 0;
}
