// The one small message of a step: what all ranks have to know before anything changes.
//
//   Tally tally;
//   tally.loss.add(loss); tally.flags[Tally::stop] = 1;
//   tally.sum_over(world);                       // COLLECTIVE; the same bits on every rank
//
// THREADS: one.
#pragma once
#include "base/exact_sum.h"
#include "dist/communicator.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace trestle::trainers {

/// All of it as integers that are summed.
struct Tally {
  ExactSum squares, loss;
  std::array<std::int64_t, 5> flags{};
  enum Flag { stop, bad_news, failed, not_finite, late };

  void sum_over(const dist::Communicator& world) {
    std::vector<std::int64_t> words;
    for (const auto part : parts()) words.insert(words.end(), part.begin(), part.end());
    world.all_reduce(std::span(words), dist::ReduceOp::sum);
    std::size_t at = 0;
    for (const auto part : parts()) {
      std::copy_n(words.begin() + static_cast<std::ptrdiff_t>(at), part.size(), part.begin());
      at += part.size();
    }
  }

 private:
  std::array<std::span<std::int64_t>, 3> parts() {
    return {squares.words(), loss.words(), std::span(flags)};
  }
};

}  // namespace trestle::trainers
