#include "models/text/python_text.h"

#include "base/utf8.h"
#include "models/text/unicode_tables.h"

#include <algorithm>
#include <span>

namespace trestle::models::text {
namespace {

constexpr char32_t kCapitalSigma = 0x3a3;
constexpr char32_t kSmallSigma = 0x3c3;
constexpr char32_t kFinalSigma = 0x3c2;
constexpr char32_t kCapitalDottedI = 0x130;
constexpr std::string_view kSmallDottedI = "i\u0307";

/// The range that holds the code, or nullptr.
template <class Range>
const Range* range_of(std::span<const Range> ranges, char32_t code) {
  const auto found = std::ranges::lower_bound(ranges, code, {}, &Range::last);
  return found != ranges.end() && found->first <= code ? &*found : nullptr;
}

bool is_space(char32_t code) { return range_of(space_ranges(), code) != nullptr; }
bool is_cased(char32_t code) { return range_of(cased_ranges(), code) != nullptr; }
bool is_ignorable(char32_t code) { return range_of(case_ignorable_ranges(), code) != nullptr; }

char32_t lower_code(char32_t code) {
  const LowerRange* range = range_of(lower_ranges(), code);
  if (range == nullptr || (code - range->first) % range->step != 0) return code;
  return code + static_cast<char32_t>(range->added);
}

/// Whether the sigma at these bytes ends a word: the next character that counts is cased to its
/// left, and not to its right.
bool ends_word(std::string_view text, std::size_t begin, std::size_t end) {
  bool cased_before = false;
  while (begin > 0) {
    const Character c = character_before(text, begin);
    begin -= c.bytes;
    if (is_ignorable(c.code)) continue;
    cased_before = is_cased(c.code);
    break;
  }
  if (!cased_before) return false;
  while (end < text.size()) {
    const Character c = character_at(text, end);
    end += c.bytes;
    if (!is_ignorable(c.code)) return !is_cased(c.code);
  }
  return true;
}

}  // namespace

std::string lower(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    const std::size_t end = at + c.bytes;
    if (c.code < 0x80) {
      result += static_cast<char>(c.code >= 'A' && c.code <= 'Z' ? c.code + ('a' - 'A') : c.code);
    } else if (c.code == kCapitalSigma) {
      append_utf8(result, ends_word(text, at, end) ? kFinalSigma : kSmallSigma);
    } else if (c.code == kCapitalDottedI) {
      result += kSmallDottedI;
    } else {
      append_utf8(result, lower_code(c.code));
    }
    at = end;
  }
  return result;
}

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const Character c = character_at(text, 0);
    if (!is_space(c.code)) break;
    text.remove_prefix(c.bytes);
  }
  while (!text.empty()) {
    const Character c = character_before(text, text.size());
    if (!is_space(c.code)) break;
    text.remove_suffix(c.bytes);
  }
  return text;
}

}  // namespace trestle::models::text
