// What is wrong with something, gathered so that all of it is said at once: counted whole, shown as
// far as anyone reads.
//
//   ProblemList missing;
//   missing.add([&] { return fmt::format("{} is missing", name); });   // made only if it is shown
//   if (missing.count() > 0) fail(ExitCode::data, "...:{}", missing.lines());
//
// LOCAL. THREADS: one.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace trestle {

class ProblemList {
 public:
  template <class Line>
  void add(Line&& line) {
    if (++count_ <= kMostShown) append(std::forward<Line>(line)());
  }
  std::size_t count() const { return count_; }
  /// "\n  LINE" each, and "\n  ... and N more WHAT" where not all are shown.
  std::string lines(std::string_view what = {}) const;

 private:
  static constexpr std::size_t kMostShown = 20;  // a wrong prefix breaks every name
  void append(std::string_view line);

  std::size_t count_ = 0;
  std::string lines_;
};

}  // namespace trestle
