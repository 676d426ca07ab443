// A library's config.json before its fields are read: for families whose files hold what no option
// can hold (lists of lists, one string for a list of equal ones, objects).
//
//   nlohmann::json object = models::config_object(text, name);
//   ... take out or rewrite what is special ...
//   auto config = models::fields_of<DcAeConfig>(object, name);
//
// Heavy to include; for .cpp files only. LOCAL. THREADS: any. ERRORS: Error(data), naming the file.
#pragma once
#include "configs/json.h"

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace trestle::models {

/// The object that the text is: no key twice, no deep nesting.
nlohmann::json config_object(std::string_view text, const std::string& name);

/// The value of a key, which is taken out of the object; null where it is absent.
nlohmann::json taken(nlohmann::json& object, const std::string& key);

template <class Options>
Options fields_of(const nlohmann::json& object, const std::string& name,
                  const std::vector<std::string>& ignored = configs::kDiffusersBookkeeping) {
  return configs::from_json<Options>(object.dump(), name, ignored);
}

}  // namespace trestle::models
