#include "models/config_json.h"

#include "base/error.h"
#include "base/log.h"
#include "formats/strict_json.h"

#include <fmt/ranges.h>

#include <algorithm>

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

std::vector<std::string> described_keys(const std::function<void(configs::Fields&)>& describe) {
  struct Names : configs::Fields {
    std::vector<std::string> keys;
    void visit(std::string_view key, configs::FieldRef, const configs::Meta&) override {
      keys.emplace_back(key);
    }
  } names;
  describe(names);
  return names.keys;
}

std::vector<std::string> undescribed_keys(const nlohmann::json& object, const std::string& name,
                                          const Library& library,
                                          const std::vector<std::string>& described,
                                          std::vector<std::string> unread) {
  const auto holds = [](const std::vector<std::string>& keys, const std::string& key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  std::vector<std::string> undescribed;
  for (const auto& [key, value] : object.items()) {
    if (holds(described, key)) continue;
    undescribed.push_back(key);
    if (!holds(library.without_effect, key)) unread.push_back(key);
  }
  if (!unread.empty()) {
    log_common_warning(fmt::format(
        "{}: {} {} no effect ({} registers no such key). The model is computed without.", name,
        fmt::join(unread, ", "), unread.size() == 1 ? "has" : "have", library.class_name));
  }
  return undescribed;
}

}  // namespace trestle::models
