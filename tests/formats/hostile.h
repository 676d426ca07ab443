// What tests of parsers share: damaged copies of a good file, and the sentence that a refusal says.
#pragma once
#include "base/error.h"
#include "base/files.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace trestle::testing {

/// The message of the Error with this code that `action` throws; "" if it throws none or another.
template <class Action>
std::string refusal(ExitCode code, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code() == code ? error.what() : "";
  }
  return "";
}

inline void put_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string get_file(const std::filesystem::path& path) {
  return read_text_file(path, 1 << 30, ExitCode::data);
}

/// A file without a disk: thousands of damaged files cost nothing.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("trestle-test", MFD_CLOEXEC)) {}
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }
  void put(std::string_view bytes) {
    const auto size = static_cast<ssize_t>(bytes.size());
    if (::ftruncate(descriptor_, 0) != 0 ||
        ::pwrite(descriptor_, bytes.data(), bytes.size(), 0) != size) {
      throw std::system_error(errno, std::generic_category(), "a file in memory");
    }
  }

 private:
  int descriptor_;
};

/// A copy with one to four things done to it: cut, a byte changed, a piece removed or repeated.
/// Equal seeds give equal copies on every machine.
inline std::string damaged(std::string bytes, std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::size_t end) { return end == 0 ? 0 : random() % end; };
  for (std::size_t wounds = 1 + below(4); wounds > 0 && !bytes.empty(); --wounds) {
    const std::size_t where = below(bytes.size());
    const std::size_t length = 1 + below(16);
    switch (below(6)) {
      case 0:
        bytes.resize(where);
        break;
      case 1:
        bytes.erase(where, length);
        break;
      case 2:
        bytes.insert(where, bytes.substr(below(bytes.size()), length));
        break;
      case 3:
        bytes[where] = static_cast<char>(bytes[where] ^ (1 << below(8)));
        break;
      default:
        bytes[where] = static_cast<char>(random());
    }
  }
  return bytes;
}

}  // namespace trestle::testing
