#include "formats/strict_json.h"

#include <fmt/format.h>

#include <set>
#include <utility>
#include <vector>

namespace trestle::formats {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxShownBytes = 160;

/// The first bytes of a text as a JSON string, and so as UTF-8: the text need not be, and cutting
/// it may split a character.
std::string quoted_start(std::string_view text) {
  return json(text.substr(0, kMaxShownBytes)).dump(-1, ' ', false, json::error_handler_t::replace);
}

/// The parser's own words without its error number and without "line 1" (our texts are one line).
/// They may quote what it stumbled over.
std::string reason_of(const json::parse_error& error) {
  const std::string_view what = error.what();
  const auto words = what.find(": ");
  const std::string quoted = quoted_start(what.substr(words == what.npos ? 0 : words + 2));
  return fmt::format("byte {}: {}", error.byte, json::parse(quoted).get<std::string>());
}

}  // namespace

json parse_json_object(std::string_view text, std::size_t max_depth) {
  if (text.find('\0') != text.npos) {
    throw JsonProblem("it contains a NUL byte");  // which the parser would take for the end
  }
  std::vector<std::set<std::string>> keys;  // of each object or array that is open
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    using Event = json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (keys.size() == max_depth) {
        throw JsonProblem(fmt::format("it nests deeper than {} levels", max_depth));
      }
      keys.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        throw JsonProblem(fmt::format("the key {} appears twice", shown(key)));
      }
    }
    return true;
  };
  try {
    json value = json::parse(text, watch);
    if (!value.is_object()) {
      throw JsonProblem(fmt::format("it is {}, not an object", value.type_name()));
    }
    return value;
  } catch (const json::parse_error& error) {
    throw JsonProblem(reason_of(error));
  } catch (const json::exception&) {
    throw JsonProblem("a number is too large");  // all that remains to a parser
  }
}

std::string shown(std::string_view text) {
  std::string result = quoted_start(text);
  if (text.size() > kMaxShownBytes) result.insert(result.size() - 1, "...");
  return result;
}

}  // namespace trestle::formats
