// Python's str.lower() and str.strip(), which the reference pipeline applies to every prompt: equal
// for every character and every context of a final sigma. Tables of Python 3.11 (Unicode 14.0).
//
// Texts are UTF-8 (require_utf8); LOCAL. THREADS: any.
//   const std::string prompt = lower(typed);
//   tokenizer.encode(strip(prompt));
#pragma once
#include <string>
#include <string_view>

namespace trestle::models::text {

std::string lower(std::string_view text);

/// The part of `text` between its first and last character that is no white space.
std::string_view strip(std::string_view text);

}  // namespace trestle::models::text
