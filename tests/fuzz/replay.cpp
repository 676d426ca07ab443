// A main for a fuzz target where there is no libFuzzer: hands it every file of the folders named,
// which hold what was found or thought of before. An empty folder is an error, so that no corpus
// can get lost unnoticed.
#include "base/files.h"
#include "tests/fuzz/fuzz.h"

#include <filesystem>
#include <vector>

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  int files = 0;
  for (const char* folder : std::vector<const char*>(arguments + 1, arguments + count)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string bytes =
          trestle::read_text_file(entry.path(), 1 << 30, trestle::ExitCode::data);
      std::printf("%s\n", entry.path().c_str());
      std::fflush(stdout);  // the last line names the file of a crash
      // A copy of its own size, so that the sanitizers see a byte too far.
      const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
      LLVMFuzzerTestOneInput(copy.data(), copy.size());
      ++files;
    }
  }
  std::printf("%d files\n", files);
  return files == 0;
}
