#include "formats/added_tokens.h"

#include <fmt/format.h>

#include <limits>

namespace trestle::formats {
namespace {

using nlohmann::json;

bool flag_at(const json& stored, const char* key, bool otherwise) {
  const auto found = stored.find(key);
  if (found == stored.end()) return otherwise;
  if (!found->is_boolean()) {
    throw JsonProblem(fmt::format("\"{}\" of an added token is neither true nor false", key));
  }
  return found->get<bool>();
}

}  // namespace

AddedToken read_added_token(const json& stored) {
  if (!stored.is_object()) throw JsonProblem("an added token is not an object");
  AddedToken token;
  for (const auto& [key, value] : stored.items()) {
    if (key == "content") {
      if (!value.is_string()) throw JsonProblem("the content of an added token is no text");
      token.content = value.get<std::string>();
    } else if (key == "id") {
      constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost) {
        throw JsonProblem("the id of an added token is none");
      }
      token.id = value.get<std::int64_t>();
    } else if (key != "single_word" && key != "lstrip" && key != "rstrip" && key != "normalized" &&
               key != "special" && key != "__type") {
      throw JsonProblem(fmt::format("an added token has the key {}", shown(key)));
    }
  }
  if (token.content.empty()) throw JsonProblem("an added token has no content");
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    if (flag_at(stored, key, false)) {
      throw JsonProblem(fmt::format("the added token {} sets \"{}\"", shown(token.content), key));
    }
  }
  token.special = flag_at(stored, "special", false);
  token.normalized = flag_at(stored, "normalized", !token.special);
  return token;
}

}  // namespace trestle::formats
