// How much the memory of this process grows while something runs.
//
//   PeakMemory memory;
//   ...
//   memory.grown_bytes();      // its largest size since, over what it was
//
// LOCAL. THREADS: one object at a time; the whole process is measured.
#pragma once
#include "base/error.h"

#include <cstdint>
#include <fstream>
#include <string>

namespace trestle::benchmarks {

class PeakMemory {
 public:
  PeakMemory() : before_bytes_(status_bytes("VmRSS:")) {
    std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM begins anew
  }
  std::int64_t grown_bytes() const { return status_bytes("VmHWM:") - before_bytes_; }

 private:
  static std::int64_t status_bytes(const std::string& key) {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      std::int64_t kilobytes = 0;
      if (word == key && status >> kilobytes) return kilobytes * 1024;
    }
    fail(ExitCode::environment, "/proc/self/status has no {} (it is not Linux's).", key);
  }

  std::int64_t before_bytes_;
};

}  // namespace trestle::benchmarks
