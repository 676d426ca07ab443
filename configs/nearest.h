// The candidate that a mistyped word most likely meant; for keys, sections, choices, tasks.
//
//   nearest("learning_rte", {"learning_rate", "lr_scheduler"})  ->  "learning_rate"
//
// LOCAL. THREADS: any.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

/// The nearest candidate by edit distance (a swap of neighbours counts once; case and - for _ count
/// nothing), else one that contains the word or is contained in it; empty if none is near.
std::string nearest(std::string_view word, std::span<const std::string> candidates);
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace trestle::configs
