#include "dist/stop_relay.h"

#include "base/deaf_thread.h"
#include "base/log.h"
#include "dist/transport.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace trestle::dist {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kPollWhileClosing = std::chrono::milliseconds(1);

/// One edge of the tree: what the neighbour says (a signal, or 0 for "no more") and whether.
struct Edge {
  int rank;
  int signal = 0;
  bool heard = false;
  std::unique_ptr<Operation> receive;
};

std::vector<Edge> edges_of(int rank, int size) {
  std::vector<Edge> edges;
  if (rank > 0) edges.push_back({.rank = (rank - 1) / 2, .receive = nullptr});
  for (const int child : {2 * rank + 1, 2 * rank + 2}) {
    if (child < size) edges.push_back({.rank = child, .receive = nullptr});
  }
  return edges;
}

}  // namespace

StopRelay::StopRelay(const Communicator& world, StopSource& source)
    : world_(world.duplicate()), source_(source) {
  if (world_.size() == 1) return;
  thread_ = deaf_thread([this] {
    try {
      work();
    } catch (const std::exception& error) {  // then a signal reaches this rank alone
      log_debug("the relay of stop requests has ended: {}", error.what());
    }
  });
}

StopRelay::~StopRelay() { end(Ending::alone); }

void StopRelay::close() { end(Ending::together); }

void StopRelay::end(Ending how) {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ending_ = how;
  }
  changed_.notify_all();
  thread_.join();
}

void StopRelay::work() {
  Transport& transport = world_.transport();
  std::vector<Edge> edges = edges_of(world_.rank(), world_.size());
  for (Edge& edge : edges) {  // `edges` does not move any more: receives write into it
    const Incoming incoming{edge.rank, std::as_writable_bytes(std::span(&edge.signal, 1))};
    edge.receive = transport.start({}, std::span(&incoming, 1));
  }
  int said = 0;
  std::unique_ptr<Operation> sends;
  for (;;) {
    Ending ending;
    {
      std::unique_lock lock(mutex_);
      const Ending before = ending_;
      changed_.wait_for(lock, before == Ending::none ? kPoll : kPollWhileClosing,
                        [&] { return ending_ != before; });
      ending = ending_;
    }
    if (ending == Ending::alone) return;
    for (Edge& edge : edges) {
      if (edge.heard || !edge.receive->test()) continue;
      edge.heard = true;
      if (edge.signal != 0) source_.request(edge.signal);
    }
    const int signal = source_.token().signal();
    if (!sends && (signal != 0 || ending == Ending::together)) {
      said = signal;
      std::vector<Outgoing> outgoing;
      for (const Edge& edge : edges)
        outgoing.push_back({edge.rank, std::as_bytes(std::span(&said, 1))});
      sends = transport.start(outgoing, {});
    }
    const bool heard_all = std::ranges::all_of(edges, &Edge::heard);
    if (ending == Ending::together && heard_all && sends->test()) return;
  }
}

}  // namespace trestle::dist
