// What collectives between these ranks cost, measured as nccl-tests does: time over sizes, and the
// bandwidth that it stands for. Every size's data is checked, element by element.
//
//   const auto collectives = dist::make_collectives(world);
//   const auto timing = dist::time_collective(*collectives, CommOperation::all_reduce, 1 << 20,
//   {}); timing.bus_bandwidth();                        // bytes per second, whatever the number of
//   ranks dist::fit_cost(all_timings_of_an_operation);   // latency and bandwidth, to predict from
//
// COLLECTIVE: time_collective and computing_lost; every rank gets the same. Everything else is
// LOCAL.
#pragma once
#include "base/median.h"
#include "dist/collectives.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::dist {

enum class CommOperation { all_reduce, reduce_scatter, all_gather, broadcast };
inline constexpr std::array kCommOperations = {CommOperation::all_reduce,
                                               CommOperation::reduce_scatter,
                                               CommOperation::all_gather, CommOperation::broadcast};
std::string_view name_of(CommOperation operation);

struct CommRounds {
  int warm_up = 2;  ///< at least 1: these check the data
  int rounds = 7;   ///< timed; small sizes are repeated within a round until it takes 10 ms
};

/// Time of one call. A round's time is its slowest rank's.
struct CommTiming {
  CommOperation operation;
  int ranks;
  std::int64_t bytes;  ///< of the whole tensor: what reduce_scatter reads, all_gather writes
  double median_s, fastest_s, slowest_s;  ///< of the rounds
  std::vector<Mode> modes = {};           ///< of the rounds; two on some links (MPI over TCP)

  /// Bytes per second.
  double algorithm_bandwidth() const { return double(bytes) / median_s; }
  /// Times what a perfect ring sends over each link for a byte of the tensor (nccl-tests,
  /// doc/PERFORMANCE.md): 2 (n-1)/n for all_reduce, (n-1)/n for reduce_scatter and all_gather, 1
  /// for broadcast. It compares with what the hardware can do.
  double bus_bandwidth() const;
};

/// float32, about `bytes` in all (rounded down to whole elements for each rank, at least one).
/// Data that is not what it should be is an error of ExitCode::environment on every rank.
CommTiming time_collective(Collectives& collectives, CommOperation operation, std::int64_t bytes,
                           const CommRounds& rounds);

/// The share of this machine's computing speed that a rank loses while reductions and gathers of
/// about `bytes` are under way: the progress thread and the network stack want cores and memory,
/// too. 0 where nothing is lost, below 1; the slowest rank's, and 0 for a lone one. COLLECTIVE.
double computing_lost(Collectives& collectives, std::int64_t bytes, int rounds);

/// The first wrong element of a result, in words; empty if all are right. `result` is what `rank`
/// of `ranks` holds after `operation` on the test's data.
std::string wrong_data(CommOperation operation, const at::Tensor& result, int rank, int ranks);

/// time = latency_s + bytes / bytes_per_s
struct CommCost {
  double latency_s, bytes_per_s;
};

/// Least squares of the relative error over the medians, so that small sizes count as much as large
/// ones; latency not below 0. Needs at least one timing. `slow`: of the slow mode where there are
/// two.
CommCost fit_cost(std::span<const CommTiming> timings, bool slow = false);

}  // namespace trestle::dist
