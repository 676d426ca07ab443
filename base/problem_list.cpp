#include "base/problem_list.h"

#include <fmt/format.h>

namespace trestle {

std::string ProblemList::lines(std::string_view what) const {
  if (count_ <= kMostShown) return lines_;
  return fmt::format("{}\n  ... and {} more{}{}", lines_, count_ - kMostShown,
                     what.empty() ? "" : " ", what);
}

void ProblemList::append(std::string_view line) {
  lines_ += "\n  ";
  lines_ += line;
}

}  // namespace trestle
