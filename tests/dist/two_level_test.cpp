// Two levels over simulated ranks, and the topology that they follow.
#include "dist/two_level.h"

#include "dist/operation_observer.h"
#include "dist/simulated.h"
#include "tests/dist/two_level_cases.h"

#include <gtest/gtest.h>

#include <limits>

namespace trestle::dist {
namespace {

using namespace two_level_cases;

// In blocks, in turns as mpirun --map-by node numbers ranks, and in no order at all.
constexpr const char* kHosts[] = {"aabb",   "abab",     "abba",     "aabbcc",   "abcabc",  "aaabbb",
                                  "abbaba", "aabbccdd", "abcdabcd", "aaaabbbb", "abbabaab"};

class TwoLevel : public testing::TestWithParam<const char*> {};

TEST_P(TwoLevel, KeepsTheOrderMovesTheBytes) {
  const auto topology = hosts(GetParam());
  for (const auto start : {Progress::Start::late, Progress::Start::at_once}) {
    simulate(
        topology->ranks(), [&](const Communicator& world) { run_all(world, topology); }, start);
  }
}

INSTANTIATE_TEST_SUITE_P(Hosts, TwoLevel, testing::ValuesIn(kHosts),
                         [](const auto& info) { return info.param; });

TEST(TwoLevelOrder, ShowsInTheBits) {
  // Otherwise the comparisons with the loops would prove nothing about order.
  const auto by_hosts = [](std::string_view letters) {
    return reduced_by_hosts<float, float>(*hosts(letters), 500, ReduceOp::sum);
  };
  EXPECT_NE(by_hosts("aabb"), by_hosts("abab"));
  EXPECT_NE(by_hosts("abab"), by_hosts("abba"));
  EXPECT_NE(by_hosts("aabb"), (reduced_in_one_level<float, float>(4, 500, ReduceOp::sum)));
}

TEST(TwoLevelChunks, LargeOnes) {
  // Four ranks are sent 262144 floats at a time between hosts, and gather 4 MiB at a time.
  for (const auto* letters : {"aabb", "abba"}) {
    const auto topology = hosts(letters);
    simulate(4, [&](const Communicator& world) {
      large_ones_go_in_many_chunks(world.channel(), topology, 1'400'001);
    });
  }
  const auto topology = hosts("aabbccdd");
  simulate(8, [&](const Communicator& world) {
    large_ones_go_in_many_chunks(world.channel(), topology, 300'001);
  });
}

TEST(TwoLevelBfloat16, HostsSumsAreRoundedToTheNearestEven) {
  for (std::uint32_t bits = 0; bits < (1u << 20); ++bits) {
    const auto value = std::bit_cast<float>(bits * 4099u);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float(Bfloat16::rounded(value))));
    } else {
      ASSERT_EQ(Bfloat16::rounded(value).bits, nearest_bfloat16(value).bits) << value;
    }
  }
  // A quiet one whose payload is all in the lower half must not become an infinity.
  EXPECT_TRUE(std::isnan(float(Bfloat16::rounded(std::bit_cast<float>(0x7f800001u)))));
}

TEST(TwoLevelCalls, HaveOneSequenceNumberEach) {
  struct Heard : OperationObserver {
    std::uint64_t queued(const OperationInfo& operation) override {
      lines.push_back(fmt::format("{} {} {}", operation.sequence, operation.kind, operation.bytes));
      return lines.size();
    }
    void started(std::uint64_t) override { ++starts; }
    void finished(std::uint64_t) override { ++ends; }
    std::vector<std::string> lines;
    int starts = 0, ends = 0;
  };
  const auto topology = hosts("aabb");
  simulate(4, [&](const Communicator& world) {
    Heard heard;
    const Communicator own = world.duplicate();
    own.observe(&heard);
    std::vector<float> values(100), part(25);
    const auto all = std::as_writable_bytes(std::span(values));
    const auto mine = std::as_writable_bytes(std::span(part));
    all_reduce(own.channel(), {.kind = "all_reduce", .two_level = topology}, Arithmetic::float32,
               all, ReduceOp::sum)
        ->wait();
    reduce_scatter(own.channel(), {.kind = "reduce_scatter", .two_level = topology},
                   Arithmetic::float32, all, mine, ReduceOp::sum)
        ->wait();
    all_gather(own.channel(), {.kind = "all_gather", .two_level = topology}, mine, all)->wait();
    own.observe(nullptr);
    EXPECT_EQ(heard.lines, (std::vector<std::string>{"0 all_reduce 400", "1 reduce_scatter 400",
                                                     "2 all_gather 400"}));
    EXPECT_EQ(heard.starts, 3);
    EXPECT_EQ(heard.ends, 3);
  });
}

TEST(TwoLevelCalls, ARankThatFailsElsewhereEndsTheWait) {
  const auto topology = hosts("aabb");
  EXPECT_THROW(simulate(4,
                        [&](const Communicator& world) {
                          if (world.rank() == 3) throw std::domain_error("broken");
                          std::vector<float> values(100);
                          all_reduce(world.channel(), {.kind = "test", .two_level = topology},
                                     Arithmetic::float32, std::as_writable_bytes(std::span(values)),
                                     ReduceOp::sum)
                              ->wait();
                        }),
               std::domain_error);
}

TEST(TwoLevelCalls, ATopologyThatDoesNotFitIsABug) {
  simulate(4, [&](const Communicator& world) {
    std::vector<float> values(100);
    for (const auto* letters : {"aaaa", "abcd", "aaab", "aabbcc"}) {
      EXPECT_THROW(
          all_reduce(world.channel(), {.kind = "test", .two_level = hosts(letters)},
                     Arithmetic::float32, std::as_writable_bytes(std::span(values)), ReduceOp::sum),
          std::logic_error)
          << letters;
    }
  });
}

TEST(Topology, NumbersHostsAndRanksInOrder) {
  const Topology topology({"n2", "n1", "n1", "n2", "n0", "n0"});
  EXPECT_EQ(topology.hosts(), 3);
  EXPECT_EQ(topology.ranks_per_host(), 2);
  EXPECT_EQ(topology.hosts_of_ranks(), (std::vector<int>{0, 1, 1, 0, 2, 2}));
  for (int rank = 0; rank < topology.ranks(); ++rank) {
    EXPECT_EQ(topology.rank_at(topology.host_of(rank), topology.local_of(rank)), rank);
  }
  EXPECT_EQ(topology.local_of(3), 1);
}

TEST(Topology, SaysWhatItIsAndWhyOneLevel) {
  const auto said = [](std::string_view letters) {
    const auto topology = hosts(letters);
    return topology->to_text() + ": " + topology->why_one_level();
  };
  EXPECT_EQ(said("aabb"), "2 hosts x 2 ranks: ");
  EXPECT_EQ(said("abcabc"), "3 hosts x 2 ranks: ");
  EXPECT_EQ(said("a"), "1 host x 1 rank: there is one rank");
  EXPECT_EQ(said("aaa"), "1 host x 3 ranks: all 3 ranks are on one host");
  EXPECT_EQ(said("abc"), "3 hosts x 1 rank: every host holds one rank");
  EXPECT_EQ(said("aabbc"), "hosts of 2, 2 and 1 ranks: 3 hosts do not hold equally many ranks");
  EXPECT_EQ(said("abcdefghiij"),
            "10 hosts of 1 to 2 ranks: 10 hosts do not hold equally many ranks");
}

}  // namespace
}  // namespace trestle::dist
