// What two resolved recipes say differently: of the run that a checkpoint holds, and of the one
// that is to go on from it.
//
//   for (const auto& d : configs::differences(manifest.recipe_toml, resolved, schema)) {
//     if (!d.may_change) refuse(d.name, d.before, d.now);
//   }
//
// LOCAL. THREADS: any. Throws Error(usage) where a text is no TOML.
#pragma once
#include "configs/schema.h"

#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

struct RecipeDifference {
  std::string name;    ///< "optim.learning_rate"
  std::string before;  ///< as a recipe writes it; empty: that recipe does not know the key
  std::string now;
  bool may_change = false;  ///< the option does not decide what the run computes
};

/// In the schema's order, then keys that the schema does not know (of an older version or another
/// task), in the order of their lines. A described key that a text does not say counts as its
/// default: an option that is new since then defaults to what was done without it.
std::vector<RecipeDifference> differences(std::string_view resolved_toml_before,
                                          std::string_view resolved_toml_now, const Schema& schema);

}  // namespace trestle::configs
