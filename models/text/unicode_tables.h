// What Python's str.lower() and str.strip() know of characters, as sorted ranges.
// LOCAL. THREADS: any.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace trestle::models::text {

struct CodeRange {
  char32_t first, last;
};

/// Every step-th character from first to last becomes itself + added.
struct LowerRange {
  char32_t first, last;
  char32_t step;
  std::int32_t added;
};

/// Of the Python that wrote the tables.
std::string_view unicode_version();

std::span<const LowerRange> lower_ranges();  ///< without U+0130, which becomes two characters
/// After these a capital sigma is a final one. Without those that are case-ignorable, too.
std::span<const CodeRange> cased_ranges();
std::span<const CodeRange> case_ignorable_ranges();  ///< these change nothing of it
std::span<const CodeRange> space_ranges();

}  // namespace trestle::models::text
