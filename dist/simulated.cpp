#include "dist/simulated.h"

#include "base/error.h"
#include "dist/channel.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

namespace trestle::dist {
namespace {

/// A receive that waits for its message.
struct Slot {
  std::span<std::byte> buffer;
  size_t arrived_bytes = 0;
  bool done = false;

  void fill(std::span<const std::byte> bytes) {
    std::memcpy(buffer.data(), bytes.data(), std::min(buffer.size(), bytes.size()));
    arrived_bytes = bytes.size();
    done = true;
  }
};

/// From one rank, with one tag; at most one of the queues holds anything.
struct Mailbox {
  std::deque<std::vector<std::byte>> messages;
  std::deque<Slot*> slots;
};

/// One rank. `mutex` guards the mailboxes and the slots in them.
struct Resident {
  explicit Resident(Progress::Start start) : progress(Progress::Rest::sleeps, start) {}

  std::mutex mutex;
  std::map<std::pair<int, int>, Mailbox> from;  // by rank and tag
  std::atomic<bool> has_left = false;
  Progress progress;  // declared last: its thread ends before what it uses
};

class World {
 public:
  World(int size, Progress::Start start) {
    for (int rank = 0; rank < size; ++rank) residents_.emplace_back(start);
  }

  Resident& operator[](int rank) { return residents_[rank]; }

  /// A rank's body has ended. Wakes whoever may be waiting for it.
  void leave(int rank, const std::exception_ptr& failure) {
    if (failure) {
      const std::lock_guard lock(mutex_);
      if (!first_failure_) first_failure_ = failure;
      failed_ = true;
    }
    residents_[rank].has_left = true;
    for (Resident& resident : residents_) resident.progress.wake();
  }

  /// After all have left: operations that nobody waits for end, and let go of this world.
  void close() {
    for (Resident& resident : residents_) resident.progress.stop();
    if (first_failure_) std::rethrow_exception(first_failure_);
  }

  bool failed() const { return failed_; }

 private:
  std::mutex mutex_;
  std::exception_ptr first_failure_;
  std::atomic<bool> failed_ = false;
  std::deque<Resident> residents_;
};

class SimulatedExchange : public Exchange {
 public:
  SimulatedExchange(std::shared_ptr<World> world, int rank, int tag,
                    std::span<const Incoming> incoming)
      : world_(std::move(world)), rank_(rank), tag_(tag) {
    const std::lock_guard lock(self().mutex);
    for (const Incoming& message : incoming) {
      Receive& receive = receives_.emplace_back(message.from, Slot{message.bytes});
      Mailbox& mailbox = self().from[{message.from, tag}];
      if (mailbox.messages.empty()) {
        mailbox.slots.push_back(&receive.slot);
      } else {
        receive.slot.fill(mailbox.messages.front());
        mailbox.messages.pop_front();
      }
    }
  }

  ~SimulatedExchange() override {
    const std::lock_guard lock(self().mutex);
    for (Receive& receive : receives_) {
      if (!receive.slot.done) std::erase(self().from[{receive.from, tag_}].slots, &receive.slot);
    }
  }

  bool test() override {
    const std::lock_guard lock(self().mutex);
    for (const Receive& receive : receives_) {
      if (receive.slot.done) {
        if (receive.slot.arrived_bytes == receive.slot.buffer.size()) continue;
        throw_size_mismatch(rank_, receive.from, receive.slot.buffer.size(),
                            fmt::format("{}", receive.slot.arrived_bytes));
      }
      TRESTLE_REQUIRE_AS(
          peer, !world_->failed(),
          "rank {} gave up waiting for rank {} (another rank of this process failed).", rank_,
          receive.from);
      TRESTLE_REQUIRE_AS(
          peer, !(*world_)[receive.from].has_left,
          "rank {} waits for rank {}, which has returned (the ranks issued different "
          "operations). Every rank must make the same calls in the same order.",
          rank_, receive.from);
      return false;
    }
    return true;
  }

 private:
  struct Receive {
    Receive(int from_rank, Slot empty) : from(from_rank), slot(empty) {}
    int from;
    Slot slot;
  };

  Resident& self() { return (*world_)[rank_]; }

  std::shared_ptr<World> world_;
  int rank_, tag_;
  std::deque<Receive> receives_;  // a deque: mailboxes point at the slots
};

class SimulatedTransport : public Transport {
 public:
  SimulatedTransport(std::shared_ptr<World> world, int rank)
      : world_(std::move(world)), rank_(rank) {}

  void submit(std::shared_ptr<Operation> operation) override {
    (*world_)[rank_].progress.submit(std::move(operation));
  }

  std::unique_ptr<Exchange> post(int tag, std::span<const Outgoing> outgoing,
                                 std::span<const Incoming> incoming) override {
    auto exchange = std::make_unique<SimulatedExchange>(world_, rank_, tag, incoming);
    for (const Outgoing& message : outgoing) deliver(tag, message);
    return exchange;
  }

  int largest_tag() const override { return 32767; }  // the least that MPI has to offer

 private:
  void deliver(int tag, const Outgoing& message) {
    Resident& to = (*world_)[message.to];
    {
      const std::lock_guard lock(to.mutex);
      Mailbox& mailbox = to.from[{rank_, tag}];
      if (mailbox.slots.empty()) {
        mailbox.messages.emplace_back(message.bytes.begin(), message.bytes.end());
      } else {
        mailbox.slots.front()->fill(message.bytes);
        mailbox.slots.pop_front();
      }
    }
    to.progress.wake();
  }

  std::shared_ptr<World> world_;
  int rank_;
};

}  // namespace

void simulate(int ranks, const std::function<void(Communicator)>& body, Progress::Start start) {
  TRESTLE_ASSERT(ranks > 0, "{} simulated ranks", ranks);
  const auto world = std::make_shared<World>(ranks, start);
  std::vector<int> everyone(ranks);
  std::iota(everyone.begin(), everyone.end(), 0);

  const auto run = [&](int rank) {
    std::exception_ptr failure;
    try {
      body(Communicator(std::make_shared<Channel>(std::make_shared<SimulatedTransport>(world, rank),
                                                  0, everyone, rank, "world")));
    } catch (...) {
      failure = std::current_exception();
    }
    world->leave(rank, failure);
  };
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
  threads.clear();  // joins
  world->close();
}

}  // namespace trestle::dist
