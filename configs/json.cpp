#include "configs/json.h"

#include "base/error.h"
#include "configs/loader.h"
#include "configs/nearest.h"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>
#include <set>

namespace trestle::configs {
namespace {

using nlohmann::json;

Value value_of(const json& node) {
  switch (node.type()) {
    case json::value_t::null:
      return {};
    case json::value_t::boolean:
      return {node.get<bool>()};
    case json::value_t::number_integer:
      return {node.get<int64_t>()};
    case json::value_t::number_unsigned:
      if (node.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return {Unwanted{"an integer of more than 64 bits"}};
      }
      return {node.get<int64_t>()};
    case json::value_t::number_float:
      return {node.get<double>()};
    case json::value_t::string:
      return {node.get<std::string>()};
    case json::value_t::array: {
      std::vector<Value> list;
      for (const json& element : node) {
        // No option takes lists of lists; not following them also keeps a hostile file off the
        // stack.
        list.push_back(element.is_array() ? Value{Unwanted{"a list"}} : value_of(element));
      }
      return {std::move(list)};
    }
    default:
      return {Unwanted{"an object"}};
  }
}

json parse_object(std::string_view text, std::string_view name) {
  std::set<std::string> keys;
  std::string twice;
  // The library lets the last of two equal keys win; here nothing is dropped unsaid.
  const auto watch_keys = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1 &&
        !keys.insert(parsed.get<std::string>()).second) {
      twice = parsed.get<std::string>();
    }
    return true;
  };
  json object;
  try {
    object = json::parse(text, watch_keys);
  } catch (const json::exception& error) {
    fail(ExitCode::data, "{}: this is not JSON ({}). Correct it or get the file again.", name,
         error.what());
  }
  TRESTLE_REQUIRE_AS(data, object.is_object(),
                     "{}: this is not a JSON object (keys and values in braces). Name a "
                     "config.json.",
                     name);
  TRESTLE_REQUIRE_AS(data, twice.empty(),
                     "{}: key {} is there twice (which one counts?). Take one "
                     "out.",
                     name, shortened(toml_string(twice)));
  return object;
}

}  // namespace

void fill_from_json(std::string_view text, std::string_view name_for_errors,
                    const std::vector<std::string>& ignored, std::vector<UnknownKey>* unknown,
                    const std::function<void(Fields&)>& describe) {
  const json object = parse_object(text, name_for_errors);
  const std::string name(name_for_errors);
  std::vector<std::pair<std::string, Value>> said;
  for (const auto& [key, node] : object.items()) said.emplace_back(key, value_of(node));

  Loader loader("", Dialect::json, [&](std::string_view key) -> Loader::Said {
    const auto it =
        std::find_if(said.begin(), said.end(), [&](const auto& item) { return item.first == key; });
    return it == said.end() ? Loader::Said{} : Loader::Said{&it->second, name};
  });
  describe(loader);

  std::vector<std::string> problems = loader.problems();
  for (const auto& [key, value] : said) {
    const auto is_key = [&key = key](const std::string& other) { return other == key; };
    if (std::any_of(loader.keys().begin(), loader.keys().end(), is_key) ||
        std::any_of(ignored.begin(), ignored.end(), is_key)) {
      continue;
    }
    const std::string near = nearest(key, loader.keys());
    if (unknown != nullptr) {
      unknown->push_back({key, near});
      continue;
    }
    const std::string hint = near.empty()
                                 ? fmt::format("the keys are {}", fmt::join(loader.keys(), ", "))
                                 : fmt::format("did you mean {}?", near);
    problems.push_back(
        fmt::format("{}: unknown key {} ({}).", name, shortened(toml_string(key)), hint));
  }
  if (!problems.empty()) throw Error(ExitCode::data, joined_lines(problems));
}

}  // namespace trestle::configs
