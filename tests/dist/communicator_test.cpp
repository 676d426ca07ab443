// Communicator over simulated ranks and over none, and what simulated ranks add: a rank that fails
// or leaves does not strand the others.
#include "dist/communicator.h"

#include "dist/channel.h"
#include "dist/simulated.h"
#include "tests/dist/communicator_cases.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

namespace trestle::dist {
namespace {

using namespace testing_cases;

class EveryCommunicator : public testing::TestWithParam<CommunicatorCase> {};

TEST_P(EveryCommunicator, Simulated) {
  for (const int ranks : {1, 2, 3, 4, 5, 8, 13}) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    simulate(ranks, GetParam().run);
    simulate(ranks, GetParam().run, Progress::Start::at_once);
  }
}

TEST_P(EveryCommunicator, Alone) { GetParam().run(Communicator::self()); }

INSTANTIATE_TEST_SUITE_P(Cases, EveryCommunicator, testing::ValuesIn(kCommunicatorCases),
                         [](const auto& info) { return info.param.name; });

TEST(Communicator, BarrierWaitsForTheLast) {
  for (const int ranks : {2, 3, 4, 7}) {
    for (int late = 0; late < ranks; ++late) {
      std::atomic<bool> arrived = false;
      simulate(ranks, [&](const Communicator& world) {
        if (world.rank() == late) {
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
          arrived = true;
        }
        world.barrier();
        EXPECT_TRUE(arrived) << "rank " << world.rank() << " of " << ranks;
      });
    }
  }
}

TEST(Communicator, ChannelsEndWithTheTagsOfTheLibrary) {
  // A number is never used again, so that no late message of an old group reaches a new one.
  auto lone = std::make_shared<Channel>(make_lone_transport(/*largest_tag=*/24), 0,
                                        std::vector<int>{0}, 0, "small");
  const Communicator world(lone);
  world.duplicate().duplicate().barrier();
  const auto failure = failure_of([&] {
    for (int i = 3; i <= 5; ++i) world.duplicate();
  });
  EXPECT_EQ(failure.first, 4);
  EXPECT_NE(failure.second.find("tags of this MPI library end at 24"), std::string::npos)
      << failure.second;
}

TEST(Communicator, AgreedMovesWhatCannotBeCopied) {
  const auto value = Communicator::self().agreed([] { return std::make_unique<int>(7); });
  EXPECT_EQ(*value, 7);
}

TEST(Communicator, TwoThreadsUseTwoCommunicators) {
  simulate(3, [](const Communicator& world) {
    const Communicator other = world.duplicate();
    std::jthread thread([&] {
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(other.broadcast_bytes(std::to_string(i), i % 3), std::to_string(i));
      }
    });
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(world.all_gather_bytes(std::to_string(-i))[i % 3], std::to_string(-i));
    }
  });
}

TEST(Simulated, FirstFailureIsRethrownAndFreesTheOthers) {
  std::atomic<int> freed = 0;
  const auto failure = failure_of([&] {
    simulate(5, [&](const Communicator& world) {
      if (world.rank() == 3) {
        world.split(1, 0);
        fail(ExitCode::data, "rank 3 broke");
      }
      try {  // a slow rank may still be in split() when rank 3 breaks
        const Communicator part = world.split(world.rank() / 3, 0);
        part.all_gather_bytes("x");   // ranks 0, 1 and 2 may still finish this among themselves
        world.all_gather_bytes("x");  // and nobody finishes this
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::peer);
        ++freed;
        throw;
      }
    });
  });
  EXPECT_EQ(failure, std::pair(3, std::string("rank 3 broke")));
  EXPECT_EQ(freed, 4);
}

TEST(Simulated, RankThatReturnsEarlyIsNamed) {
  const auto failure = failure_of([&] {
    simulate(2, [&](const Communicator& world) {
      if (world.rank() == 0) world.barrier();
    });
  });
  EXPECT_EQ(failure.first, 7);
  EXPECT_NE(failure.second.find("rank 0 waits for rank 1, which has returned"), std::string::npos)
      << failure.second;
}

TEST(Simulated, DifferentSizesAreNamed) {
  const auto failure = failure_of([&] {
    simulate(2, [&](const Communicator& world) {
      std::vector<double> values(world.rank() == 0 ? 2 : 3);
      world.all_reduce(std::span<double>(values), ReduceOp::sum);
    });
  });
  EXPECT_EQ(failure.first, 7);
  // Both ranks notice; whoever is first speaks.
  const bool by_rank_0 = failure.second.starts_with("rank 0 expected 16 bytes from rank 1, and 24");
  const bool by_rank_1 = failure.second.starts_with("rank 1 expected 24 bytes from rank 0, and 16");
  EXPECT_TRUE(by_rank_0 || by_rank_1) << failure.second;
}

TEST(Simulated, ManyRanks) {
  simulate(128, [](const Communicator& world) {
    int64_t sum = world.rank();
    world.all_reduce(std::span(&sum, 1), ReduceOp::sum);
    EXPECT_EQ(sum, 127 * 64);
    EXPECT_EQ(world.split(world.rank() / 8, 0).size(), 8);
  });
}

}  // namespace
}  // namespace trestle::dist
