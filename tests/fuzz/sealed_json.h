// Files that carry a digest of their own: nobody guesses one, so a target tries its text as it is
// and again with the right digest, as a careful enemy would write it.
#pragma once
#include "base/digest.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <string_view>

namespace trestle::fuzz {

/// The JSON object of that text with the digest that belongs to it; empty if it is none.
inline std::string sealed_json(std::string_view text) {
  constexpr auto kMaxBrackets = 1000;  // the JSON writer below recurses
  if (std::ranges::count(text, '[') + std::ranges::count(text, '{') > kMaxBrackets) return "";
  nlohmann::json stored = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!stored.is_object()) return "";
  stored.erase("digest");
  stored["digest"] = digest_128(stored.dump());
  return stored.dump(1);
}

}  // namespace trestle::fuzz
