// The one small message of an objective and step: what all ranks have to know before anything
// changes.
//
//   Tally tally;
//   tally.loss.add(loss); tally.flags[Tally::stop] = 1;
//   tally.sum_over(world, names);                // COLLECTIVE; the same bits on every rank
//
// THREADS: one.
#pragma once
#include "base/exact_sum.h"
#include "dist/communicator.h"
#include "trainers/task_metrics.h"

#include <array>
#include <cstdint>
#include <vector>

namespace trestle::trainers {

struct Tally {
  enum Flag {
    stop,
    bad_news,
    failed,
    not_finite,
    late,
    new_metrics,
    shard_written,  // and the next two: checkpoint::SaveFlags
    save_failed,
    save_sealed,
    flag_count
  };

  ExactSum squares, loss;
  std::array<std::int64_t, flag_count> flags{};  ///< on how many ranks
  std::vector<double> metrics;  ///< Metrics::numbers() of the same names on every rank

  void sum_over(const dist::Communicator& world, const MetricNames& names = {});
};

/// COLLECTIVE. Where some rank reports metrics that `names` lacks, which must be the same on every
/// rank: adds those of all ranks. Returns the numbers of all.
std::vector<double> merge_metrics(const dist::Communicator& world, const Metrics& mine,
                                  MetricNames& names);

}  // namespace trestle::trainers
