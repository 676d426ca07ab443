#include "dist/straggler.h"

#include "dist/simulated.h"
#include "dist/wait_time.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

namespace trestle::dist {
namespace {

TEST(SlowRanks, EachRankInTurn) {
  for (const std::size_t ranks : {2, 3, 4, 64}) {
    for (std::size_t slow = 0; slow < ranks; ++slow) {
      std::vector<double> times(ranks, 0.1);
      for (std::size_t rank = 0; rank < ranks; ++rank)
        times[rank] += 0.005 * std::sin(double(rank));
      times[slow] *= 2;
      const auto named = slow_ranks(times, 1.3);
      ASSERT_EQ(named.size(), 1u) << slow << " of " << ranks;
      EXPECT_EQ(named[0].rank, int(slow));
      EXPECT_NEAR(named[0].factor, 2, 0.25);
    }
  }
}

TEST(SlowRanks, NobodyWhereAllAreAlikeOrAlone) {
  EXPECT_TRUE(slow_ranks({0.1, 0.12, 0.11, 0.1}, 1.3).empty());
  EXPECT_TRUE(slow_ranks({5.0}, 1.3).empty());
  EXPECT_TRUE(slow_ranks({}, 1.3).empty());
}

TEST(SlowRanks, OneFastRankMakesTheOthersNoStragglers) {
  EXPECT_TRUE(slow_ranks({0.1, 0.01, 0.1, 0.1}, 1.3).empty());
}

TEST(StragglerWatch, ComparesEveryFewSteps) {
  for (const int slow : {0, 1, 2}) {
    testing::internal::CaptureStderr();
    simulate(3, [&](const Communicator& world) {
      StragglerWatch watch(world, 4);
      for (int step = 0; step < 16; ++step) {
        // One step of four that hiccups says nothing of a rank.
        const bool hiccup = step % 4 == 1 && world.rank() != slow;
        watch.add((world.rank() == slow ? 0.2 : 0.1) + (hiccup ? 3.0 : 0.0));
      }
    });
    const std::string said = testing::internal::GetCapturedStderr();
    const std::string sentence = "rank " + std::to_string(slow) + " (host ";
    const auto first = said.find(sentence);
    ASSERT_NE(first, std::string::npos) << said;
    EXPECT_NE(said.find("is slow: its own part of a step takes 2.0 times", first),
              std::string::npos)
        << said;
    EXPECT_EQ(said.find("is slow", said.find("is slow") + 1), std::string::npos)
        << "said more than once: " << said;
  }
}

TEST(StragglerWatch, OffAndAloneItDoesNothing) {
  simulate(2, [](const Communicator& world) {
    StragglerWatch watch(world, 0);
    if (world.rank() == 0) watch.add(1);  // no collective call: this would hang otherwise
  });
  const Communicator self = Communicator::self();
  StragglerWatch alone(self, 1);
  alone.add(1);
}

TEST(WaitTime, CountsTheOuterTimerOfThisThread) {
  const double before = waited_s();
  const auto started = std::chrono::steady_clock::now();
  {
    const WaitTimer outer;
    const WaitTimer inner;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    std::jthread([] { const WaitTimer other; });
  }
  EXPECT_GE(waited_s() - before, 0.03);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  EXPECT_LE(waited_s() - before, elapsed.count()) << "counted twice";
}

TEST(WaitTime, WaitingForARankCounts) {
  simulate(2, [](const Communicator& world) {
    const double before = waited_s();
    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    world.barrier();
    const double waited = waited_s() - before;
    if (world.rank() == 0) {
      EXPECT_GE(waited, 0.25);
    } else {
      EXPECT_LT(waited, 0.2);
    }
  });
}

}  // namespace
}  // namespace trestle::dist
