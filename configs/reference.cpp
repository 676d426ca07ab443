#include "configs/schema.h"

#include <fmt/format.h>

namespace trestle::configs {
namespace {

// A bar or a line break would end the table's cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

}  // namespace

std::string reference_markdown(const Schema& schema) {
  std::string page =
      "# Recipe reference\n\n"
      "Generated from the descriptions that stand beside the code; `trestle explain RECIPE` shows "
      "the same for one recipe.\n";
  for (const std::string& section : schema.sections()) {
    page += fmt::format(
        "\n## [{}]\n\n| Key | Type | Default | Unit | Range | Meaning "
        "|\n|---|---|---|---|---|---|\n",
        section);
    for (const DescribedOption& option : schema.options()) {
      if (option.section != section) continue;
      page += fmt::format("| `{}` | {} | `{}` | {} | {} | {} |\n", cell(option.key),
                          cell(option.type()), cell(option.default_text), cell(option.unit),
                          cell(option.range()), cell(option.help));
    }
  }
  return page;
}

}  // namespace trestle::configs
