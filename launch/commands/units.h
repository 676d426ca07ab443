// Sizes and times as people read them. LOCAL.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace trestle::launch {

/// "512 B", "12.3 kB", "4.57 GB": powers of ten.
inline std::string bytes_text(std::int64_t bytes) {
  double value = double(bytes);
  if (value < 1000) return fmt::format("{} B", bytes);
  for (const char* unit : {"kB", "MB", "GB"}) {
    value /= 1000;
    if (value < 999.5) return fmt::format("{:.3g} {}", value, unit);
  }
  return fmt::format("{:.4g} TB", value / 1000);
}

inline std::string time_text(double seconds) {
  return seconds < 1 ? fmt::format("{:.3g} ms", seconds * 1e3) : fmt::format("{:.4g} s", seconds);
}

}  // namespace trestle::launch
