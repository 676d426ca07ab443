// Recipe::check: everything in a recipe that the schema does not know or allow.
#include "configs/loader.h"
#include "configs/nearest.h"
#include "configs/recipe_data.h"
#include "configs/value.h"

#include <fmt/ranges.h>

namespace trestle::configs {
namespace {

std::string section_problem(const Schema& schema, const std::string& name) {
  for (const DescribedOption& option : schema.options()) {
    if (option.name() != name) continue;
    return fmt::format("{} is a key, not a section (it takes {}). Write {} = ... under [{}].", name,
                       option.allowed(), option.key, option.section);
  }
  const std::string near = nearest(name, schema.sections());
  const std::string what = fmt::format("unknown section [{}]", shortened(name));
  if (!near.empty()) return fmt::format("{} (did you mean [{}]?).", what, near);
  return fmt::format("{} (the sections are [{}]).", what, fmt::join(schema.sections(), "], ["));
}

// The same key elsewhere is the likelier meaning than another key here: people know the words and
// forget the drawer.
std::string likely_keys(const Schema& schema, const std::string& section, const std::string& key) {
  std::vector<std::string> same, others;
  for (const DescribedOption& option : schema.options()) {
    if (option.key == key && same.size() < 3) same.push_back(option.name());
    others.push_back(option.key);
  }
  if (!same.empty()) return fmt::format("{}", fmt::join(same, " or "));
  const std::string here = nearest(key, schema.keys(section));
  if (!here.empty()) return section.empty() ? here : section + "." + here;
  const std::string elsewhere = nearest(key, others);
  for (const DescribedOption& option : schema.options()) {
    if (option.key == elsewhere) return option.name();
  }
  return "";
}

std::string key_problem(const Schema& schema, const Entry& entry) {
  const bool outside = entry.section.empty();
  if (outside && schema.has_section(entry.key)) {
    return fmt::format(
        "{0} = {1} is outside any section ({0} is a section). Write [{0}] and its "
        "keys below.",
        entry.key, shortened(to_toml(entry.value)));
  }
  const std::string name = shortened(outside ? entry.key : entry.section + "." + entry.key);
  const std::string what =
      fmt::format("unknown key {}{}", name, outside ? " outside any section" : "");
  const std::string likely = likely_keys(schema, entry.section, entry.key);
  if (!likely.empty()) return fmt::format("{} (did you mean {}?).", what, likely);
  if (outside) return fmt::format("{} (every option has one). Take it out.", what);
  return fmt::format("{} ([{}] has {}).", what, entry.section,
                     fmt::join(schema.keys(entry.section), ", "));
}

/// Whoever builds on a recipe may turn a part of it off without having to unsay its keys.
bool switched_off(const Entry& entry, const Entry* needed) {
  return needed && needed->layer > entry.layer;
}

/// `found` is the value of the key that the option needs.
std::string effect_problem(const DescribedOption& option, const Entry& entry,
                           const std::string& found) {
  return fmt::format(
      "{} = {} has no effect ({} = {}, and {} is read only when it is {}). Remove the key, or set "
      "{}.",
      option.name(), shortened(to_toml(entry.value)), option.needs->key, shortened(found),
      option.key, option.needs->value_text(), option.needs->text());
}

}  // namespace

void Recipe::check(const Schema& schema) const {
  std::vector<std::string> problems;
  for (const SectionMention& section : data_->sections) {
    if (!schema.has_section(section.name)) {
      problems.push_back(section.source + ": " + section_problem(schema, section.name));
    }
  }
  for (const Entry& entry : data_->entries) {
    if (!entry.section.empty() && !schema.has_section(entry.section)) continue;  // said above
    const DescribedOption* option = schema.find(entry.section, entry.key);
    std::string problem =
        option ? checked(*option, entry.value, Dialect::toml).problem : key_problem(schema, entry);
    if (problem.empty() && option && option->needs) {
      const DescribedOption& needed = schema.needed_by(*option);
      const std::string found = data_->value_of(needed, schema);
      const bool judged = !found.empty();  // an ill-typed value has a line of its own
      if (judged && found != option->needs->value_text() &&
          !switched_off(entry, data_->find(needed.section, needed.key))) {
        problem = effect_problem(*option, entry, found);
      }
    }
    if (!problem.empty()) problems.push_back(entry.source + ": " + problem);
  }
  if (!problems.empty()) throw Error(ExitCode::usage, joined_lines(problems));
}

}  // namespace trestle::configs
