// Names the rank that computes slower than the others, long before anything times out.
//
//   dist::StragglerWatch stragglers(world, /*every=*/20);
//   stragglers.add(step_s - waited_in_collectives_s);    // after every step
//     -> warning: rank 2 (host n7) is slow: 2.0 times the other ranks' time a step (...)
//
// A step's time must leave out waiting for other ranks: otherwise all are as slow as the slowest.
// COLLECTIVE: the constructor, and every `every`-th add(). THREADS: one.
#pragma once
#include "dist/communicator.h"

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::dist {

struct SlowRank {
  int rank;
  double factor;  ///< its time / the median of the others'
};

/// LOCAL. Those that take more than `threshold` times the median of the others.
std::vector<SlowRank> slow_ranks(const std::vector<double>& times_s, double threshold);

class StragglerWatch {
 public:
  static constexpr double kThreshold = 1.3;
  /// A rank's time is the lower quartile of its steps: others on its cores, a page from a cold disk
  /// only ever add to a step, and a slow rank is slow in nearly all.
  static constexpr double kQuantile = 0.25;

  /// `every` 0: never looks.
  StragglerWatch(const Communicator& world, std::int64_t every);
  /// Rank 0 warns when a rank becomes slow, and says when it no longer is.
  void add(double step_s);

 private:
  void compare();

  const Communicator& world_;
  std::int64_t every_;
  std::vector<std::string> hosts_;
  std::vector<double> times_s_;  ///< since the last comparison
  std::vector<bool> named_;
};

}  // namespace trestle::dist
