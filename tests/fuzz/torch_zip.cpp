// A file of torch.save. Bytes are tried as they are, and again as the pickle of an otherwise sound
// file: an invented zip file seldom gets that far. All tensors of one that was accepted lie in it.
#include "formats/torch_zip.h"

#include "tests/formats/hostile.h"
#include "tests/formats/torch_files.h"
#include "tests/fuzz/fuzz.h"

#include <set>
#include <vector>

using namespace trestle;

namespace {

void read(std::string_view bytes) {
  static testing::MemoryFile memory;
  memory.put(bytes);
  fuzz::accepted(ExitCode::data, [&] {
    const auto file = formats::TorchZip::open(memory.path());
    std::set<std::string_view> names;
    for (const formats::StoredTensor& tensor : file.tensors()) {
      fuzz::demand(names.insert(tensor.name).second, "names are unique", tensor.name);
      fuzz::demand(tensor.begin_bytes <= bytes.size() &&
                       tensor.span_bytes <= bytes.size() - tensor.begin_bytes,
                   "a tensor lies in the file", tensor.name);
      fuzz::demand(tensor.strides.empty() || tensor.strides.size() == tensor.shape.size(),
                   "a stride for each size", tensor.name);
      const auto width = formats::element_bytes(tensor.dtype);
      if (tensor.strides.empty()) {
        fuzz::demand(static_cast<std::uint64_t>(tensor.elements()) * width == tensor.span_bytes,
                     "row-major elements fill their span", tensor.name);
      } else {
        std::uint64_t last = 0;
        for (std::size_t i = 0; i < tensor.shape.size(); ++i)
          last += static_cast<std::uint64_t>((tensor.shape[i] - 1) * tensor.strides[i]);
        fuzz::demand((last + 1) * width == tensor.span_bytes, "the span ends with the last element",
                     tensor.name);
      }
      std::vector<std::byte> content(tensor.span_bytes);
      file.bytes().read_exact(tensor.begin_bytes, content);
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view text = fuzz::text(bytes, size);
  read(text);
  if (!text.starts_with("PK")) {
    read(testing::torch_file(std::string(text), {std::string(64, '.'), std::string(12, '.')}));
  }
  return 0;
}
