// The progress thread by itself, and what observers hear. Free of torch and MPI: built with
// ThreadSanitizer too.
#include "dist/progress.h"

#include "base/error.h"
#include "dist/operation_observer.h"
#include "dist/operations.h"
#include "dist/simulated.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

/// Ends, or throws, at its how manieth step.
class Countdown : public Operation {
 public:
  explicit Countdown(int steps, bool throws = false, bool is_urgent = true)
      : steps_(steps), throws_(throws), is_urgent_(is_urgent) {}
  bool is_urgent() const override { return is_urgent_; }

  std::atomic<int> taken = 0;
  std::atomic<bool> withdrawn = false;

 private:
  Step advance() override {
    if (++taken < steps_) return Step::waiting;
    if (throws_) throw std::out_of_range("counted down");
    return Step::finished;
  }
  void withdraw() noexcept override { withdrawn = true; }

  int steps_;
  bool throws_, is_urgent_;
};

constexpr int kNever = 1'000'000'000;

TEST(Progress, EveryThreadsOperationsEnd) {
  Progress progress(Progress::Rest::polls);
  const auto issue_some = [&] {
    for (int round = 0; round < 50; ++round) {
      std::vector<std::shared_ptr<Countdown>> some;
      for (int i = 1; i < 6; ++i) some.push_back(std::make_shared<Countdown>(i));
      for (const auto& each : some) progress.submit(each);
      while (!some[0]->test()) std::this_thread::yield();
      for (const auto& each : some) each->wait();
      for (int i = 1; i < 6; ++i) EXPECT_EQ(some[i - 1]->taken, i);
    }
  };
  std::jthread first(issue_some), second(issue_some);
  issue_some();
}

TEST(Progress, AFailureReachesItsWaiterAndNoOther) {
  Progress progress(Progress::Rest::polls);
  const auto good = std::make_shared<Countdown>(50), bad = std::make_shared<Countdown>(20, true);
  progress.submit(bad);
  progress.submit(good);
  EXPECT_THROW(bad->wait(), std::out_of_range);
  EXPECT_THROW(bad->test(), std::out_of_range);
  EXPECT_TRUE(bad->withdrawn);
  good->wait();
  EXPECT_FALSE(good->withdrawn);
}

TEST(Progress, WhatIsUnfinishedAtTheEndFails) {
  Progress progress(Progress::Rest::polls);
  const auto running = std::make_shared<Countdown>(kNever);
  progress.submit(running);
  std::jthread waiter([&] { EXPECT_THROW(running->wait(), Error); });
  while (running->taken == 0) std::this_thread::yield();
  progress.stop();
  EXPECT_TRUE(running->withdrawn);
  const auto late = std::make_shared<Countdown>(1);
  progress.submit(late);
  EXPECT_THROW(late->wait(), Error);
  EXPECT_EQ(late->taken, 0);
}

TEST(Progress, AStandingReceiveCostsNothing) {
  // It is looked at a hundred times a second; an urgent one as often as the core allows, until the
  // silence has lasted.
  Progress progress(Progress::Rest::polls);
  const auto standing = std::make_shared<Countdown>(kNever, false, false);
  progress.submit(standing);
  std::this_thread::sleep_for(300ms);
  const int at_leisure = standing->taken;
  EXPECT_LT(at_leisure, 60);
  EXPECT_GT(at_leisure, 0);
  const auto urgent = std::make_shared<Countdown>(kNever);
  progress.submit(urgent);
  std::this_thread::sleep_for(300ms);
  EXPECT_GT(urgent->taken, 200);
}

TEST(Progress, ALateStartWaitsForAWaiter) {
  Progress progress(Progress::Rest::polls, Progress::Start::late);
  const auto first = std::make_shared<Countdown>(1), second = std::make_shared<Countdown>(1);
  progress.submit(first);
  progress.submit(second);
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(first->taken, 0);
  second->wait();  // lets everything go: a peer may need the first to answer the second
  first->wait();
  EXPECT_EQ(first->taken, 1);
}

/// What one rank's observer heard, as text.
class Notes : public OperationObserver {
 public:
  std::uint64_t queued(const OperationInfo& operation) override {
    lines.push_back(fmt::format("{}[{}] {} #{} '{}' {} B{}", operation.channel_name,
                                operation.members.size(), operation.kind, operation.sequence,
                                operation.name, operation.bytes,
                                operation.peer < 0 ? "" : fmt::format(" peer {}", operation.peer)));
    channels.push_back(operation.channel);
    events.emplace_back("queued");
    return lines.size() - 1;
  }
  void started(std::uint64_t id) override {
    EXPECT_EQ(events.at(id), "queued");
    events.at(id) = "started";
  }
  void finished(std::uint64_t id) override {
    EXPECT_EQ(events.at(id), "started");
    events.at(id) = "finished";
  }

  std::vector<std::string> lines, events;
  std::vector<std::uint32_t> channels;
};

TEST(OperationObserver, HearsEveryCallOfItsRank) {
  for (const auto start : {Progress::Start::late, Progress::Start::at_once}) {
    simulate(
        2,
        [](const Communicator& world) {
          const int rank = world.rank(), other = 1 - rank;
          world.barrier();  // unheard
          Notes notes;
          world.observe(&notes);
          const Communicator gradients = world.duplicate("gradients");
          std::vector<float> values(12, 1.0f);
          const auto bytes = std::as_writable_bytes(std::span(values));
          const Pending sum =
              all_reduce(gradients.channel(), {.kind = "all_reduce", .name = "bucket 3"},
                         Arithmetic::float32, bytes, ReduceOp::sum);
          world.agree({});
          world.all_gather_bytes(std::string(rank + 1, 'x'));
          sum->wait();
          const Pending sending = send(world.channel(), {.kind = "send"}, bytes.first(8), other);
          receive(world.channel(), {.kind = "recv"}, bytes.last(8), other)->wait();
          sending->wait();
          auto standing = std::make_shared<int>();
          receive_at_leisure(world.channel(), standing,
                             std::as_writable_bytes(std::span(standing.get(), 1)), other);
          gradients.barrier();
          world.observe(nullptr);
          world.barrier();
          EXPECT_EQ(notes.lines,
                    (std::vector<std::string>{
                        "world[2] split #1 'gradients' 32 B",
                        "gradients[2] all_reduce #0 'bucket 3' 48 B", "world[2] agree #2 '' 0 B",
                        fmt::format("world[2] all_gather_bytes #3 '' {} B", rank + 1),
                        fmt::format("world[2] send #0 '' 8 B peer {}", other),
                        fmt::format("world[2] recv #0 '' 8 B peer {}", other),
                        "gradients[2] barrier #1 '' 0 B"}));
          EXPECT_EQ(notes.events, std::vector<std::string>(notes.lines.size(), "finished"));
          EXPECT_EQ(notes.channels, (std::vector<std::uint32_t>{0, 1, 0, 0, 0, 0, 1}));
        },
        start);
  }
}

TEST(OperationObserver, AFailedOperationNeverFinishes) {
  Notes notes;
  EXPECT_THROW(simulate(2,
                        [&](const Communicator& world) {
                          if (world.rank() == 1) fail(ExitCode::data, "alone");
                          world.observe(&notes);
                          world.barrier();
                        }),
               Error);
  EXPECT_EQ(notes.events, std::vector<std::string>{"started"});
}

TEST(Operations, ManyAtOnceOnPlainMemory) {
  // Two threads a rank, each with a channel and more calls than may be in flight.
  for (const int ranks : {2, 3, 5}) {
    simulate(
        ranks,
        [&](const Communicator& world) {
          const Communicator gradients = world.duplicate(), control = world.duplicate();
          const auto rounds = [&](const Communicator& own, std::int64_t factor) {
            std::vector<std::vector<std::int64_t>> sums;
            std::vector<Pending> pending;
            for (int i = 0; i < 20; ++i) {
              sums.emplace_back(7 * i, factor * (world.rank() + i));
              pending.push_back(all_reduce(own.channel(), {.kind = "all_reduce"}, Arithmetic::int64,
                                           std::as_writable_bytes(std::span(sums.back())),
                                           ReduceOp::sum));
            }
            for (int i = 19; i >= 0; --i) {
              pending[i]->wait();
              const std::int64_t expected = factor * (ranks * (ranks - 1) / 2 + ranks * i);
              EXPECT_EQ(sums[i], std::vector<std::int64_t>(7 * i, expected));
            }
          };
          std::jthread other([&] { rounds(control, 1000); });
          rounds(gradients, 1);
        },
        Progress::Start::at_once);
  }
}

}  // namespace
}  // namespace trestle::dist
