#include "models/config_json.h"

#include "base/error.h"
#include "base/log.h"
#include "formats/strict_json.h"

#include <fmt/ranges.h>

namespace trestle::models {
namespace {

constexpr std::size_t kMaxDepth = 8;  // a config.json nests two or three levels

}  // namespace

nlohmann::json config_object(std::string_view text, const std::string& name) {
  try {
    return formats::parse_json_object(text, kMaxDepth);
  } catch (const formats::JsonProblem& problem) {
    fail(ExitCode::data, "{}: this is no JSON object ({}). Correct it or get the file again.", name,
         problem.what());
  }
}

nlohmann::json taken(nlohmann::json& object, const std::string& key) {
  nlohmann::json value;
  if (const auto it = object.find(key); it != object.end()) {
    value = std::move(*it);
    object.erase(it);
  }
  return value;
}

void warn_of_unknown(const std::string& name, const Library& library,
                     const std::vector<configs::UnknownKey>& unknown) {
  if (unknown.empty()) return;
  std::vector<std::string> keys, near;
  for (const configs::UnknownKey& found : unknown) {
    keys.push_back(found.key);
    if (!found.nearest.empty()) near.push_back(found.nearest);
  }
  log_common_warning(fmt::format(
      "{}: {} {} no effect ({} registers no such key{}). The model is computed without.", name,
      fmt::join(keys, ", "), keys.size() == 1 ? "has" : "have", library.class_name,
      near.empty() ? "" : fmt::format("; did you mean {}?", fmt::join(near, ", "))));
}

}  // namespace trestle::models
