// UTF-8 as a sequence of characters: strict, so no surrogates, nothing overlong, nothing beyond
// U+10FFFF.
// LOCAL. THREADS: any.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace trestle {

/// A character and the bytes that it takes; 0 bytes where the text is not UTF-8.
struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
};

/// The one at this byte, which is before the text's end.
Character character_at(std::string_view text, std::size_t at);

/// The one that ends before this byte, which is after the start of a text that is UTF-8.
Character character_before(std::string_view text, std::size_t at);

void append_utf8(std::string& text, char32_t code);

/// The first byte that belongs to no character; text.size() if all do.
std::size_t valid_utf8_bytes(std::string_view text);

/// Error(data) where the text is not UTF-8. `what`: which text it is ("the prompt").
void require_utf8(std::string_view text, std::string_view what);

}  // namespace trestle
