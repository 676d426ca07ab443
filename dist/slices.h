// Consecutive parts of an array, one a rank: which elements end in whose hands. Internal to the
// operations of dist/. LOCAL.
//
//   const auto slices = Slices::balanced(count, channel.size());
//   float* mine = data + slices.begins[rank];             // slices.count(rank) elements
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace trestle::dist {

struct Slices {
  static Slices even(int64_t each, int ranks) {
    Slices slices;
    for (int rank = 0; rank <= ranks; ++rank) slices.begins.push_back(rank * each);
    return slices;
  }
  /// Lengths that differ by one at most.
  static Slices balanced(int64_t count, int ranks) {
    Slices slices;
    for (int64_t rank = 0; rank <= ranks; ++rank) {
      slices.begins.push_back(count / ranks * rank + std::min(rank, count % ranks));
    }
    return slices;
  }
  /// The same slices, counted in units of which an element has `units`.
  Slices in_units(int64_t units) const {
    Slices slices = *this;
    for (int64_t& begin : slices.begins) begin *= units;
    return slices;
  }
  int64_t count(int rank) const { return begins[rank + 1] - begins[rank]; }
  int64_t longest() const {
    int64_t most = 0;
    for (size_t rank = 0; rank + 1 < begins.size(); ++rank) {
      most = std::max(most, count(static_cast<int>(rank)));
    }
    return most;
  }

  std::vector<int64_t> begins;
};

}  // namespace trestle::dist
