// What the fuzz targets share. A target is a file here that defines LLVMFuzzerTestOneInput, which
// takes bytes that somebody may have made up: libFuzzer invents them (tools/fuzz), replay.cpp reads
// those of corpus/<target>/ (ctest). Whatever the bytes, a reader accepts them or refuses them with
// the Error of its room; all else (another exception, a crash, a sanitizer's word, a demand that is
// not met) ends the program, and that is the finding.
//
// A new target: tests/fuzz/<name>.cpp, its seeds in corpus/<name>/, its name in CMakeLists.txt.
#pragma once
#include "base/error.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace trestle::fuzz {

inline void demand(bool condition, const char* what, std::string_view found = "") {
  if (condition) return;
  std::fprintf(stderr, "not so: %s\n%.*s\n", what, static_cast<int>(found.size()), found.data());
  std::abort();
}

/// A terminal shows it as it is: no control characters but the ends of lines.
inline bool is_plain(std::string_view message) {
  return !message.empty() && std::ranges::none_of(message, [](char c) {
    return static_cast<unsigned char>(c) < 0x20 && c != '\n';
  });
}

/// False: `read` refused the bytes as it should, with this code and a message for people.
template <class Read>
bool accepted(ExitCode code, Read&& read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    demand(error.code() == code, "the refusal has the code of its room", error.what());
    demand(is_plain(error.what()), "the refusal has no control characters", error.what());
    return false;
  }
}

inline std::string_view text(const std::uint8_t* bytes, std::size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace trestle::fuzz

/// libFuzzer's name for a target. Returns 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);
