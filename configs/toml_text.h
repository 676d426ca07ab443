// TOML text to flat entries with their lines; the only place that knows the TOML library.
// LOCAL. THREADS: any.
#pragma once
#include "configs/value.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

/// `key = value` in a section. Tables in tables make sections with dots: [optim.discriminator].
struct Entry {
  std::string section;
  std::string key;
  Value value;
  std::string source;  ///< begins every message about it: "a.toml:12", "--set train.steps=5"
  bool from_set = false;
  int layer = 0;  ///< higher ones win: the lowest base, ..., the recipe, --set
};

/// A section that a recipe opens, even if it is empty.
struct SectionMention {
  std::string name;
  std::string source;
};

struct TomlText {
  std::vector<Entry> entries;  ///< in the order of their lines
  std::vector<SectionMention> sections;
  std::optional<Entry> extends;  ///< holds a string
};

/// Throws Error(usage) with name:line.
TomlText parse_toml(std::string_view text, const std::string& name);

/// One `section.key=value` of --set. What is not a TOML value is a string. Throws Error(usage).
Entry parse_set(std::string_view assignment);

}  // namespace trestle::configs
