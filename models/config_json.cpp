#include "models/config_json.h"

#include "base/error.h"
#include "formats/strict_json.h"

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

}  // namespace trestle::models
