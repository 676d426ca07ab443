// A library's config.json before its fields are read: for families whose files hold what no option
// can hold (lists of lists, one string for a list of equal ones, objects).
//
//   nlohmann::json object = models::config_object(text, name);
//   ... take out or rewrite what is special ...
//   auto config = models::fields_of<DcAeConfig>(object, name, {"diffusers' AutoencoderDC"});
//
// A key that the library's class does not register changes nothing there either: it is named in one
// warning (a recipe's unknown key is an error).
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

/// Who reads such a file, and what of it no model of theirs computes with.
struct Library {
  std::string class_name;  ///< "diffusers' AutoencoderDC"
  std::vector<std::string> without_effect = configs::kDiffusersBookkeeping;
};

/// One warning for all of them; none, none.
void warn_of_unknown(const std::string& name, const Library& library,
                     const std::vector<configs::UnknownKey>& unknown);

/// `unknown`: keys inside of others that were found to be so before.
template <class Options>
Options fields_of(const nlohmann::json& object, const std::string& name, const Library& library,
                  std::vector<configs::UnknownKey> unknown = {}) {
  auto options = configs::from_json<Options>(object.dump(), name, library.without_effect, &unknown);
  warn_of_unknown(name, library, unknown);
  return options;
}

}  // namespace trestle::models
