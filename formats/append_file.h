// A file that grows by whole pieces: a piece that could not be written to its end is taken back, so
// that whoever reads or goes on finds no half one.
//
// One write to the system a piece and no buffer: a killed program loses nothing that it appended.
// LOCAL. THREADS: one a file. Errors: ExitCode::environment, naming the file.
//   AppendFile file("runs/cats/metrics.jsonl");
//   file.append("{\"step\": 12}\n");
#pragma once
#include <filesystem>
#include <string_view>

namespace trestle::formats {

class AppendFile {
 public:
  /// Opens the file at its end, or makes it.
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view piece);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace trestle::formats
