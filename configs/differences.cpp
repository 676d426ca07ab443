#include "configs/differences.h"

#include "configs/toml_text.h"
#include "configs/value.h"

#include <algorithm>

namespace trestle::configs {
namespace {

class Resolved {
 public:
  Resolved(std::string_view toml, const std::string& name)
      : entries_(parse_toml(toml, name).entries) {}

  const std::vector<Entry>& entries() const { return entries_; }

  const Entry* find(const std::string& section, const std::string& key) const {
    const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.section == section && entry.key == key;
    });
    return it == entries_.end() ? nullptr : &*it;
  }

  /// As the option would hold it, so that 1 and 1.0 are one number. What an older version allowed
  /// and this one does not stays as it was said.
  std::string value_of(const DescribedOption& option, const Schema& schema) const {
    const Entry* entry = find(option.section, option.key);
    if (!entry) {
      const DescribedOption* inherited = schema.inherited(option);
      return inherited ? value_of(*inherited, schema) : option.default_text;
    }
    const Checked result = checked(option, entry->value, Dialect::toml);
    return to_toml(result.problem.empty() ? result.value : entry->value);
  }

 private:
  std::vector<Entry> entries_;
};

std::string name_of(const Entry& entry) {
  return entry.section.empty() ? entry.key : entry.section + "." + entry.key;
}

}  // namespace

std::vector<RecipeDifference> differences(std::string_view resolved_toml_before,
                                          std::string_view resolved_toml_now,
                                          const Schema& schema) {
  const Resolved before(resolved_toml_before, "recipe of the run so far");
  const Resolved now(resolved_toml_now, "recipe");
  std::vector<RecipeDifference> found;
  const auto compare = [&](RecipeDifference difference) {
    if (difference.before != difference.now) found.push_back(std::move(difference));
  };
  for (const DescribedOption& option : schema.options()) {
    compare({option.name(), before.value_of(option, schema), now.value_of(option, schema),
             option.may_change});
  }
  for (const Entry& entry : before.entries()) {
    if (schema.find(entry.section, entry.key)) continue;
    const Entry* same = now.find(entry.section, entry.key);
    compare({name_of(entry), to_toml(entry.value), same ? to_toml(same->value) : "", false});
  }
  for (const Entry& entry : now.entries()) {
    const bool listed =
        schema.find(entry.section, entry.key) || before.find(entry.section, entry.key);
    if (!listed) compare({name_of(entry), "", to_toml(entry.value), false});
  }
  return found;
}

}  // namespace trestle::configs
