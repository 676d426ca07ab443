#include "configs/loader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trestle::configs {

void Loader::visit(std::string_view key, FieldRef field, const Meta& meta) {
  keys_.emplace_back(key);
  const Said said = find_(key);
  if (!said.value) return;
  Checked result = checked(described(section_, key, field, meta), *said.value, dialect_);
  if (result.problem.empty()) {
    assign(field, result.value);
  } else {
    problems_.push_back(said.source + ": " + result.problem);
  }
}

std::string joined_lines(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace trestle::configs
