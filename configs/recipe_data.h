// What a Recipe holds; shared by the files that implement it.
#pragma once
#include "configs/recipe.h"
#include "configs/toml_text.h"

#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

struct Recipe::Data {
  std::string name;
  std::vector<Entry> entries;  ///< one a key: the winner
  std::vector<SectionMention> sections;

  const Entry* find(std::string_view section, std::string_view key) const;
  /// Effective, as a recipe writes it; empty where what was said is not allowed.
  std::string value_of(const DescribedOption& option, const Schema& schema) const;
};

}  // namespace trestle::configs
