// A text as a JSON string, quotes included; for the few lines of JSON that this room makes.
// LOCAL. THREADS: any.
#pragma once
#include <fmt/format.h>

#include <string>
#include <string_view>

namespace trestle::dist {

inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace trestle::dist
