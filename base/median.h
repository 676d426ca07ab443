// Statistics of a few measured times. LOCAL. THREADS: any.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace trestle {

/// The middle value, or the mean of the two middle ones; 0 of none.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Values that lie together.
struct Mode {
  double median = 0;
  std::size_t count = 0;
};

/// One mode, or two where times jump: some neighbours in size differ by half or more, and each side
/// holds a quarter of the values or more (a single slow round is no mode). Positive values, the
/// fast mode first.
inline std::vector<Mode> modes(std::vector<double> values) {
  constexpr double kJump = 1.5;
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const std::size_t least = std::max<std::size_t>(2, (values.size() + 3) / 4);
  std::size_t border = 0;
  for (std::size_t i = least; i + least <= values.size(); ++i) {
    const auto jump = [&](std::size_t at) { return values[at] / values[at - 1]; };
    if (jump(i) >= kJump && (border == 0 || jump(i) > jump(border))) border = i;
  }
  if (border == 0) return {{median(values), values.size()}};
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(border);
  return {{median({values.begin(), middle}), border},
          {median({middle, values.end()}), values.size() - border}};
}

}  // namespace trestle
