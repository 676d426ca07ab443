#include "configs/nearest.h"

#include <algorithm>
#include <cctype>

namespace trestle::configs {
namespace {

std::string folded(std::string_view word) {
  std::string out(word);
  for (char& c : out) {
    c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// Damerau-Levenshtein in its restricted form (no edits inside a swapped pair), three rows at a
// time.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

bool contains(std::string_view whole, std::string_view part) {
  return part.size() >= 3 && whole.find(part) != std::string_view::npos;
}

}  // namespace

std::string nearest(std::string_view word, std::span<const std::string> candidates) {
  const std::string wanted = folded(word);
  std::string best, related;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const std::string name = folded(candidate);
    const size_t distance = edit_distance(wanted, name);
    const size_t tolerated = std::max<size_t>(1, std::max(wanted.size(), name.size()) / 3);
    if (distance <= tolerated && (best.empty() || distance < best_distance)) {
      best = candidate;
      best_distance = distance;
    }
    if (related.empty() && (contains(name, wanted) || contains(wanted, name))) related = candidate;
  }
  return best.empty() ? related : best;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  return nearest(word, std::span<const std::string>(candidates));
}

}  // namespace trestle::configs
