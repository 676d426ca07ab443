// The thread that saves, and how the main thread learns that its work has ended. Also built without
// torch, for ThreadSanitizer.
#include "checkpoint/save_thread.h"

#include "checkpoint/ending.h"

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace trestle::checkpoint {
namespace {

using namespace std::chrono_literals;
using Clock = Ending::Clock;

TEST(SaveThread, DoesOnePieceOfWorkAfterTheOtherAndAllBeforeItEnds) {
  auto order = std::make_shared<std::vector<int>>();
  {
    SaveThread thread;
    EXPECT_TRUE(thread.wait_until_idle(Clock::now()));
    for (int i = 0; i < 100; ++i) thread.add([order, i] { order->push_back(i); });
    EXPECT_TRUE(thread.wait_until_idle(Clock::now() + 10s));
    EXPECT_EQ(order->size(), 100u);
    thread.add([order] {
      std::this_thread::sleep_for(20ms);
      order->push_back(100);
    });
    EXPECT_FALSE(thread.wait_until_idle(Clock::now()));
  }
  ASSERT_EQ(order->size(), 101u);
  for (int i = 0; i <= 100; ++i) EXPECT_EQ((*order)[static_cast<std::size_t>(i)], i);
}

TEST(SaveThread, NoSignalReachesIt) {
  SaveThread thread;
  auto blocked = std::make_shared<std::atomic<bool>>(false);
  thread.add([blocked] {
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, nullptr, &mask);
    *blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGUSR2) == 1;
  });
  EXPECT_TRUE(thread.wait_until_idle(Clock::now() + 10s));
  EXPECT_TRUE(*blocked);
}

TEST(SaveThread, WorkGivesBackWhatItOwnsWhenItIsDone) {
  SaveThread thread;
  auto large = std::make_shared<int>(1);
  const std::weak_ptr<int> watched = large;
  thread.add([large = std::move(large)] {});
  EXPECT_TRUE(thread.wait_until_idle(Clock::now() + 10s));
  EXPECT_TRUE(watched.expired());
}

TEST(Ending, TheFirstToSayHowItEndsIsBelieved) {
  for (int round = 0; round < 200; ++round) {
    auto ending = std::make_shared<Ending>();
    SaveThread thread;
    thread.add([ending] { ending->done(); });
    ending->failed(std::make_exception_ptr(std::runtime_error("too late")));
    ending->wait_until(Clock::now() + 10s);
    const Ending::State state = ending->state();
    EXPECT_NE(state, Ending::State::open);
    EXPECT_TRUE(thread.wait_until_idle(Clock::now() + 10s));
    EXPECT_EQ(ending->state(), state);
    EXPECT_EQ(ending->why() != nullptr, state == Ending::State::failed);
  }
}

TEST(Ending, AWaiterLooksAgainWhenItIsTold) {
  auto ending = std::make_shared<Ending>();
  auto progress = std::make_shared<std::atomic<int>>(0);
  SaveThread thread;
  thread.add([ending, progress] {
    for (int i = 0; i < 1000; ++i) {
      ++*progress;
      ending->look_again();
    }
  });
  ending->wait_until(Clock::now() + 10s, [&] { return *progress >= 700; });
  EXPECT_GE(*progress, 700);
  EXPECT_TRUE(ending->is_open());
  const auto started = Clock::now();
  ending->wait_until(started + 20ms, [] { return false; });
  EXPECT_GE(Clock::now() - started, 20ms);
  EXPECT_TRUE(thread.wait_until_idle(Clock::now() + 10s));
}

}  // namespace
}  // namespace trestle::checkpoint
