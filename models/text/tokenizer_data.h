// What a Tokenizer holds; shared by the files that implement it.
#pragma once
#include "models/text/bpe.h"
#include "models/text/token_finder.h"
#include "models/text/tokenizer.h"

#include <string>
#include <string_view>
#include <unordered_set>

namespace trestle::models::text {

/// What stands for a space in pieces: U+2581.
inline constexpr std::string_view kSpaceMark = "\u2581";

std::string replaced(std::string_view text, std::string_view what, std::string_view by);

struct Tokenizer::Data {
  Bpe bpe;
  TokenFinder before_spaces = {};       ///< added tokens that are looked for in the text as it is
  TokenFinder after_spaces = {};        ///< and those once its spaces are U+2581
  std::vector<std::string> texts = {};  ///< by id, added tokens included
  std::unordered_set<std::int64_t> special = {};
  std::vector<std::int64_t> before = {};  ///< ids in front of every text
  std::vector<std::int64_t> after = {};   ///< and behind it
  std::optional<std::int64_t> pad = {};
};

}  // namespace trestle::models::text
