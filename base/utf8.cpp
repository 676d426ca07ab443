#include "base/utf8.h"

#include "base/error.h"

#include <array>

namespace trestle {
namespace {

constexpr char32_t kLastCode = 0x10ffff;
constexpr std::array<char32_t, 5> kLeastOfBytes = {0, 0, 0x80, 0x800, 0x10000};

bool is_surrogate(char32_t code) { return code >= 0xd800 && code < 0xe000; }
bool continues(unsigned char byte) { return (byte & 0xc0) == 0x80; }

}  // namespace

Character character_at(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc0 || lead >= 0xf8 || bytes > text.size() - at) return {};
  char32_t code = lead & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto byte = static_cast<unsigned char>(text[at + i]);
    if (!continues(byte)) return {};
    code = code << 6 | (byte & 0x3fU);
  }
  if (code < kLeastOfBytes[bytes] || code > kLastCode || is_surrogate(code)) return {};
  return {code, bytes};
}

Character character_before(std::string_view text, std::size_t at) {
  std::size_t begin = at - 1;
  while (begin > 0 && continues(static_cast<unsigned char>(text[begin]))) --begin;
  return character_at(text, begin);
}

void append_utf8(std::string& text, char32_t code) {
  const auto last_six = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | code >> 6);
    text += last_six(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | code >> 12);
    text += last_six(6);
    text += last_six(0);
  } else {
    text += static_cast<char>(0xf0 | code >> 18);
    text += last_six(12);
    text += last_six(6);
    text += last_six(0);
  }
}

std::size_t valid_utf8_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t bytes = character_at(text, at).bytes;
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

void require_utf8(std::string_view text, std::string_view what) {
  const std::size_t valid = valid_utf8_bytes(text);
  TRESTLE_REQUIRE_AS(data, valid == text.size(),
                     "{} is not UTF-8 (byte {} of {}, 0x{:02x}, belongs to no character). Save the "
                     "file that it comes from as UTF-8.",
                     what, valid + 1, text.size(), static_cast<unsigned char>(text[valid]));
}

}  // namespace trestle
