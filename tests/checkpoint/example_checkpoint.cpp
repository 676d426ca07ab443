// Writes a checkpoint of random numbers in every dtype, for judges that are not ours
// (h5py_test.py):
//   example_checkpoint FOLDER RANKS SEED [index]
// and next to it FOLDER/expected/<tensor name with '/' as '+'>.bin, the raw bytes of each tensor.
#include "base/files.h"
#include "checkpoint/tensor_bytes.h"
#include "tests/checkpoint/states.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

int main(int argc, char** argv) try {
  using namespace trestle;
  const bool index = argc == 5 && std::string_view(argv[4]) == "index";
  if (argc != 4 && !index) {
    std::fputs("usage: example_checkpoint FOLDER RANKS SEED [index]\n", stderr);
    return static_cast<int>(ExitCode::usage);
  }
  const std::filesystem::path folder = argv[1];
  checkpoint::TestState state(std::strtoull(argv[3], nullptr, 10));
  const auto path = checkpoint::save_as(std::atoi(argv[2]), state, folder, 1, index);

  std::filesystem::create_directories(folder / "expected");
  for (const auto& entry : checkpoint::collect(state.visitor()).tensors) {
    std::string name = entry.name;
    for (char& c : name)
      if (c == '/') c = '+';
    const at::Tensor dense = entry.tensor.contiguous();
    const auto bytes = checkpoint::bytes_of(dense);
    write_file_durable(folder / "expected" / (name + ".bin"),
                       {reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                       ExitCode::environment);
  }
  std::printf("%s\n", path.c_str());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
