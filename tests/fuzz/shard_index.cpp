// An index of safetensors shards with the shards beside it. An input is the index, a NUL byte, two
// bytes that say how long a.safetensors is, that file, and b.safetensors: the rest. Where they were
// accepted, the index and the shards name the same tensors.
#include "formats/sharded_safetensors.h"
#include "tests/formats/hostile.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/scratch.h"

#include <algorithm>
#include <filesystem>

using namespace trestle;

namespace {

/// A folder whose three files lie in memory.
struct Folder {
  Folder() {
    link("model.safetensors.index.json", index);
    link("a.safetensors", a);
    link("b.safetensors", b);
  }
  void link(const char* name, const testing::MemoryFile& file) {
    std::filesystem::create_symlink(file.path(), scratch.path() / name);
  }

  testing::MemoryFile index, a, b;
  testing::ScratchFolder scratch;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static Folder folder;
  const std::string_view input = fuzz::text(bytes, size);
  const std::string_view index = input.substr(0, input.find('\0'));
  std::string_view rest = input.substr(std::min(index.size() + 1, size));
  std::size_t length = 0;
  if (rest.size() >= 2) {
    length = static_cast<unsigned char>(rest[0]) | static_cast<unsigned char>(rest[1]) << 8;
    rest.remove_prefix(2);
  }
  folder.index.put(index);
  folder.a.put(rest.substr(0, length));
  folder.b.put(rest.substr(std::min(length, rest.size())));
  fuzz::accepted(ExitCode::data, [&] {
    const auto weights = formats::ShardedSafetensors::open(folder.scratch.path());
    const auto listed = formats::parse_shard_index(index, "index");
    std::size_t held = 0;
    for (const formats::SafetensorsFile& shard : weights.shards()) {
      for (const formats::TensorEntry& entry : shard.entries()) {
        fuzz::demand(listed.file_of.contains(entry.name), "a tensor is in the index", entry.name);
        ++held;
      }
    }
    fuzz::demand(held == listed.file_of.size(), "every tensor of the index is there");
  });
  return 0;
}
