#include "dist/simulated.h"

#include "dist/transport.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

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

/// From one rank to another; at most one of the queues holds anything.
struct Mailbox {
  std::deque<std::vector<std::byte>> messages;
  std::deque<Slot*> slots;
};

/// All that one rank of a group receives. `mutex` guards the mailboxes and the slots in them.
struct Inbox {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Mailbox> from;
};

struct Group {
  explicit Group(std::vector<int> ranks) : world_ranks(std::move(ranks)), inboxes(size()) {
    for (Inbox& inbox : inboxes) inbox.from.resize(size());
  }
  size_t size() const { return world_ranks.size(); }

  std::vector<int> world_ranks;
  std::deque<Inbox> inboxes;
};

class World {
 public:
  explicit World(int size) : left_(size) {}

  using Key = std::tuple<const Group*, int64_t, int>;  // parent, its how manieth split, color

  /// The same group for every member; the last member to ask takes it out of the table.
  std::shared_ptr<Group> group(const Key& key, const std::vector<int>& world_ranks) {
    const std::lock_guard lock(mutex_);
    auto& [group, asked] = forming_[key];
    if (!group) {
      group = std::make_shared<Group>(world_ranks);
      groups_.push_back(group);
    }
    const std::shared_ptr<Group> result = group;
    if (++asked == world_ranks.size()) forming_.erase(key);
    return result;
  }

  /// A rank's body has ended. Wakes whoever may be waiting for it.
  void leave(int world_rank, const std::exception_ptr& failure) {
    std::vector<std::weak_ptr<Group>> groups;
    {
      const std::lock_guard lock(mutex_);
      if (failure && !first_failure_) first_failure_ = failure;
      groups = groups_;
    }
    if (failure) failed_ = true;
    left_[world_rank] = true;
    for (const auto& weak : groups) {
      const std::shared_ptr<Group> group = weak.lock();
      if (!group) continue;
      for (Inbox& inbox : group->inboxes) {
        { const std::lock_guard lock(inbox.mutex); }  // whoever tested too early now waits
        inbox.changed.notify_all();
      }
    }
  }

  bool failed() const { return failed_; }
  bool has_left(int world_rank) const { return left_[world_rank]; }
  std::exception_ptr first_failure() const { return first_failure_; }

 private:
  struct Forming {
    std::shared_ptr<Group> group;
    size_t asked = 0;
  };

  std::mutex mutex_;
  std::map<Key, Forming> forming_;
  std::vector<std::weak_ptr<Group>> groups_;
  std::exception_ptr first_failure_;
  std::atomic<bool> failed_ = false;
  std::deque<std::atomic<bool>> left_;
};

class SimulatedOperation : public Operation {
 public:
  SimulatedOperation(std::shared_ptr<World> world, std::shared_ptr<Group> group, int rank,
                     std::span<const Incoming> incoming)
      : world_(std::move(world)), group_(std::move(group)), rank_(rank) {
    const std::lock_guard lock(inbox().mutex);
    for (const Incoming& message : incoming) {
      if (message.bytes.empty()) continue;
      Receive& receive = receives_.emplace_back(message.from, Slot{message.bytes});
      Mailbox& mailbox = inbox().from[message.from];
      if (mailbox.messages.empty()) {
        mailbox.slots.push_back(&receive.slot);
      } else {
        receive.slot.fill(mailbox.messages.front());
        mailbox.messages.pop_front();
      }
    }
  }

  ~SimulatedOperation() override {
    const std::lock_guard lock(inbox().mutex);
    for (Receive& receive : receives_) {
      if (!receive.slot.done) std::erase(inbox().from[receive.from].slots, &receive.slot);
    }
  }

  void wait() override {
    std::unique_lock lock(inbox().mutex);
    inbox().changed.wait(lock, [&] { return arrived(); });
  }

  bool test() override {
    const std::lock_guard lock(inbox().mutex);
    return arrived();
  }

 private:
  struct Receive {
    Receive(int from_rank, Slot empty) : from(from_rank), slot(empty) {}
    int from;
    Slot slot;
  };

  Inbox& inbox() { return group_->inboxes[rank_]; }

  bool arrived() {
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
          peer, !world_->has_left(group_->world_ranks[receive.from]),
          "rank {} waits for rank {}, which has returned (the ranks issued different "
          "operations). Every rank must make the same calls in the same order.",
          rank_, receive.from);
      return false;
    }
    return true;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Group> group_;
  int rank_;
  std::deque<Receive> receives_;  // a deque: mailboxes point at the slots
};

class SimulatedTransport : public Transport {
 public:
  SimulatedTransport(std::shared_ptr<World> world, std::shared_ptr<Group> group, int rank)
      : world_(std::move(world)), group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->size()); }

  std::shared_ptr<Transport> split(int color, int key) override {
    struct Wish {
      int color, key, rank;
    };
    const Wish mine{color, key, rank_};
    std::vector<Wish> wishes(size());
    gather_equal(*this, std::as_bytes(std::span(&mine, 1)),
                 std::as_writable_bytes(std::span(wishes)));
    std::erase_if(wishes, [&](const Wish& wish) { return wish.color != color; });
    std::ranges::stable_sort(wishes, {}, &Wish::key);  // they stand in the order of ranks
    std::vector<int> world_ranks;
    int rank = 0;
    for (const Wish& wish : wishes) {
      if (wish.rank == rank_) rank = static_cast<int>(world_ranks.size());
      world_ranks.push_back(group_->world_ranks[wish.rank]);
    }
    auto group = world_->group({group_.get(), splits_++, color}, world_ranks);
    return std::make_shared<SimulatedTransport>(world_, std::move(group), rank);
  }

  std::unique_ptr<Operation> start(std::span<const Outgoing> outgoing,
                                   std::span<const Incoming> incoming) override {
    auto operation = std::make_unique<SimulatedOperation>(world_, group_, rank_, incoming);
    for (const Outgoing& message : outgoing) {
      if (!message.bytes.empty()) deliver(message);
    }
    return operation;
  }

 private:
  void deliver(const Outgoing& message) {
    Inbox& inbox = group_->inboxes[message.to];
    {
      const std::lock_guard lock(inbox.mutex);
      Mailbox& mailbox = inbox.from[rank_];
      if (mailbox.slots.empty()) {
        mailbox.messages.emplace_back(message.bytes.begin(), message.bytes.end());
      } else {
        mailbox.slots.front()->fill(message.bytes);
        mailbox.slots.pop_front();
      }
    }
    inbox.changed.notify_all();
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Group> group_;
  int rank_;
  int64_t splits_ = 0;
};

}  // namespace

void simulate(int ranks, const std::function<void(Communicator)>& body) {
  TRESTLE_ASSERT(ranks > 0, "{} simulated ranks", ranks);
  const auto world = std::make_shared<World>(ranks);
  std::vector<int> world_ranks(ranks);
  for (int rank = 0; rank < ranks; ++rank) world_ranks[rank] = rank;
  const auto everyone = world->group({nullptr, 0, 0}, world_ranks);

  const auto run = [&](int rank) {
    std::exception_ptr failure;
    try {
      body(Communicator(std::make_shared<SimulatedTransport>(world, everyone, rank)));
    } catch (...) {
      failure = std::current_exception();
    }
    world->leave(rank, failure);
  };
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
  threads.clear();  // joins
  if (world->first_failure()) std::rethrow_exception(world->first_failure());
}

}  // namespace trestle::dist
