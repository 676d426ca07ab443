// What every Communicator must do, whatever carries its bytes; run over simulated ranks by
// communicator_test.cpp and over MPI by communicator_mpi_test.cpp.
#pragma once
#include "dist/channel.h"
#include "dist/communicator.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace trestle::dist::testing_cases {

struct CommunicatorCase {
  const char* name;
  void (*run)(const Communicator&);
};

inline std::string bytes_of_rank(int rank) {
  // Lengths from 0 up, with NUL bytes inside.
  std::string bytes;
  for (int i = 0; i < rank * 37; ++i) bytes.push_back(static_cast<char>(i * (rank + 3)));
  return bytes;
}

inline void gathers_bytes(const Communicator& ranks) {
  for (int round = 0; round < 3; ++round) {
    const auto all = ranks.all_gather_bytes(bytes_of_rank(ranks.rank()));
    ASSERT_EQ(all.size(), static_cast<size_t>(ranks.size()));
    for (int rank = 0; rank < ranks.size(); ++rank) EXPECT_EQ(all[rank], bytes_of_rank(rank));
  }
}

inline void broadcasts_bytes(const Communicator& ranks) {
  for (int root = 0; root < ranks.size(); ++root) {
    EXPECT_EQ(ranks.broadcast_bytes(bytes_of_rank(ranks.rank()), root), bytes_of_rank(root));
  }
}

inline void sums_in_rank_order(const Communicator& ranks) {
  // Terms of which the order decides the sum: 1, 2^60, -2^60, 0.1, 1, 2^60 ...
  const std::array terms{1.0, std::ldexp(1.0, 60), -std::ldexp(1.0, 60), 0.1};
  std::vector<double> values{terms[ranks.rank() % 4], 1.0 / (1 + ranks.rank())};
  ranks.all_reduce(std::span<double>(values), ReduceOp::sum);
  double first = 0, second = 0;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    first += terms[rank % 4];
    second += 1.0 / (1 + rank);
  }
  EXPECT_EQ(values[0], first);
  EXPECT_EQ(values[1], second);
}

inline void finds_extremes(const Communicator& ranks) {
  const int last = ranks.size() - 1;
  std::vector<int64_t> counts{ranks.rank(), -ranks.rank(), (int64_t{1} << 60) + ranks.rank()};
  ranks.all_reduce(std::span<int64_t>(counts), ReduceOp::max);
  EXPECT_EQ(counts, (std::vector<int64_t>{last, 0, (int64_t{1} << 60) + last}));
  counts = {ranks.rank(), -ranks.rank()};
  ranks.all_reduce(std::span<int64_t>(counts), ReduceOp::min);
  EXPECT_EQ(counts, (std::vector<int64_t>{0, -last}));
  counts = {1, int64_t{1} << 53};
  ranks.all_reduce(std::span<int64_t>(counts), ReduceOp::sum);
  EXPECT_EQ(counts, (std::vector<int64_t>{ranks.size(), (int64_t{1} << 53) * ranks.size()}));
  // One rank's NaN is everyone's, whoever has it.
  for (int sick = 0; sick < ranks.size(); ++sick) {
    for (const ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
      double value = ranks.rank() == sick ? std::numeric_limits<double>::quiet_NaN() : ranks.rank();
      ranks.all_reduce(std::span(&value, 1), op);
      EXPECT_TRUE(std::isnan(value)) << "rank " << sick << " was NaN";
    }
  }
}

inline void barrier_holds_everyone(const Communicator& ranks) {
  // After a barrier, everything sent before it by a rank that knows nothing of us has been sent.
  for (int round = 0; round < 20; ++round) ranks.barrier();
}

inline void splits_by_color_and_key(const Communicator& ranks) {
  const int size = ranks.size(), rank = ranks.rank();
  const Communicator reversed = ranks.split(0, -rank);
  EXPECT_EQ(reversed.size(), size);
  EXPECT_EQ(reversed.rank(), size - 1 - rank);

  const Communicator parity = ranks.split(rank % 2, 0);  // equal keys: order of ranks
  EXPECT_EQ(parity.rank(), rank / 2);
  EXPECT_EQ(parity.size(), (size + 1 - rank % 2) / 2);
  int64_t sum = rank;
  parity.all_reduce(std::span(&sum, 1), ReduceOp::sum);
  int64_t expected = 0;
  for (int other = rank % 2; other < size; other += 2) expected += other;
  EXPECT_EQ(sum, expected);

  // Messages of a group and of its duplicate do not meet.
  const Communicator twin = ranks.duplicate();
  EXPECT_EQ(twin.rank(), rank);
  const auto from_twin = twin.all_gather_bytes("twin");
  const auto from_ranks = ranks.all_gather_bytes("self");
  EXPECT_EQ(from_twin, std::vector<std::string>(size, "twin"));
  EXPECT_EQ(from_ranks, std::vector<std::string>(size, "self"));
}

inline void splits_of_splits(const Communicator& ranks) {
  // Groups of groups, all used in turn, in another order on odd ranks where members allow it.
  const int size = ranks.size(), rank = ranks.rank();
  const Communicator halves = ranks.split(2 * rank / size, 0);
  const Communicator pairs = halves.split(halves.rank() / 2, 0);
  const Communicator alone = pairs.split(pairs.rank(), 0);
  const Communicator twin = pairs.duplicate();
  const Communicator again = ranks.duplicate();
  EXPECT_LE(pairs.size(), 2);
  EXPECT_EQ(alone.size(), 1);
  for (int round = 0; round < 3; ++round) {
    const auto sum = [&](const Communicator& group, int64_t value) {
      group.all_reduce(std::span(&value, 1), ReduceOp::sum);
      return value;
    };
    EXPECT_EQ(sum(pairs, 1), pairs.size());
    EXPECT_EQ(sum(twin, 10), 10 * pairs.size());
    EXPECT_EQ(sum(halves, 100), 100 * halves.size());
    EXPECT_EQ(sum(alone, 7), 7);
    EXPECT_EQ(sum(again, 1000), 1000 * size);
    EXPECT_EQ(sum(ranks, 3), 3 * size);
  }
}

/// The exit code and text that f ends with on this rank.
template <class F>
std::pair<int, std::string> failure_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  } catch (const std::exception& error) {
    return {-1, error.what()};
  }
  return {0, ""};
}

inline void agrees_on_the_lowest_failure(const Communicator& ranks) {
  const int size = ranks.size(), rank = ranks.rank();
  EXPECT_EQ(ranks.agreed([&] { return rank * 2; }), rank * 2);
  ranks.agreed([] {});

  // Two ranks fail (one, where there is only one): the lower one speaks for all, by the name that
  // it has in the run.
  const int low = size / 3, high = size - 1;
  const auto in_the_run = [&](int place) {
    return ranks.channel().members()[static_cast<std::size_t>(place)];
  };
  const auto two = failure_of([&] {
    ranks.agreed([&] {
      if (rank == low) fail(ExitCode::data, "rank {} lost its cats", rank);
      if (rank == high) fail(ExitCode::checkpoint, "rank {} lost its dogs", rank);
      return rank;
    });
  });
  EXPECT_EQ(two.first, 3);
  const std::string prefix = size == 1 ? "" : fmt::format("rank {}: ", in_the_run(low));
  EXPECT_EQ(two.second, prefix + fmt::format("rank {} lost its cats", low));

  const auto alike = failure_of(
      [&] { ranks.agreed([&]() -> int { fail(ExitCode::usage, "no such key\nsecond line"); }); });
  EXPECT_EQ(alike, std::pair(2, std::string("no such key\nsecond line")));

  if (size > 1) {
    // A text that names its rank is left as it is, and a stop never hides an error.
    const auto named = failure_of([&] {
      ranks.agreed([&] {
        if (rank < size - 1) fail(ExitCode::preempted, "stopped by SIGTERM");
        fail(ExitCode::numbers, "rank {}: the loss is nan", rank);
      });
    });
    EXPECT_EQ(named, std::pair(6, fmt::format("rank {}: the loss is nan", size - 1)));

    const auto foreign = failure_of([&] {
      ranks.agreed([&] {
        if (rank == 0) throw std::out_of_range("vector::at");
      });
    });
    EXPECT_EQ(foreign, std::pair(4, fmt::format("rank {}: vector::at", in_the_run(0))));
    EXPECT_THROW(ranks.agree(rank == size - 1 ? std::make_exception_ptr(Error(ExitCode::data, ""))
                                              : std::exception_ptr()),
                 AgreedError);
  } else {
    EXPECT_THROW(ranks.agreed([] { throw std::out_of_range("vector::at"); }), std::out_of_range);
  }
  // The group works on after an agreed failure.
  EXPECT_EQ(ranks.all_gather_bytes("x").size(), static_cast<size_t>(size));
}

inline constexpr CommunicatorCase kCommunicatorCases[] = {
    {"gathers_bytes", gathers_bytes},
    {"broadcasts_bytes", broadcasts_bytes},
    {"sums_in_rank_order", sums_in_rank_order},
    {"finds_extremes", finds_extremes},
    {"barrier_holds_everyone", barrier_holds_everyone},
    {"splits_by_color_and_key", splits_by_color_and_key},
    {"splits_of_splits", splits_of_splits},
    {"agrees_on_the_lowest_failure", agrees_on_the_lowest_failure},
};

inline void PrintTo(const CommunicatorCase& c, std::ostream* out) { *out << c.name; }

}  // namespace trestle::dist::testing_cases
