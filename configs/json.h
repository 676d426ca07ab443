// Options from a JSON object, such as the config.json beside a model's weights.
//
//   auto config = configs::from_json<SanaConfig>(text, "transformer/config.json");
//
// Absent keys keep their defaults, null is "no value", and a key that nobody described is an error
// with the nearest known one, except the bookkeeping keys named in `ignored`; or it is told in
// `unknown`, for files whose own library passes over such a key.
// LOCAL. THREADS: any. Throws Error(ExitCode::data), one problem a line: file: key ...
#pragma once
#include "configs/describe.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

/// What diffusers writes into every config.json and no model reads.
inline const std::vector<std::string> kDiffusersBookkeeping = {"_class_name", "_diffusers_version",
                                                               "_name_or_path"};

struct UnknownKey {
  std::string key;
  std::string nearest;  ///< of the described ones; empty if none is near
};

void fill_from_json(std::string_view text, std::string_view name_for_errors,
                    const std::vector<std::string>& ignored, std::vector<UnknownKey>* unknown,
                    const std::function<void(Fields&)>& describe);

template <class Options>
Options from_json(std::string_view text, std::string_view name_for_errors,
                  const std::vector<std::string>& ignored = kDiffusersBookkeeping,
                  std::vector<UnknownKey>* unknown = nullptr) {
  Options options;
  fill_from_json(text, name_for_errors, ignored, unknown,
                 [&](Fields& fields) { options.describe(fields); });
  return options;
}

}  // namespace trestle::configs
