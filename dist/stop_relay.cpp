#include "dist/stop_relay.h"

#include "base/deaf_thread.h"
#include "base/log.h"
#include "dist/operations.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace trestle::dist {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kPollWhileClosing = std::chrono::milliseconds(1);

/// One edge of the tree: what the neighbour says (a signal, or 0 for "no more") and whether. The
/// messages keep the numbers alive: a relay that ends alone leaves them to the progress thread.
struct Edge {
  int rank;
  bool heard = false;
  std::shared_ptr<int> signal = std::make_shared<int>(0);
  Pending receive = nullptr;
  Pending send = nullptr;
};

std::span<std::byte> bytes_of(int& number) { return std::as_writable_bytes(std::span(&number, 1)); }

std::vector<Edge> edges_of(int rank, int size) {
  std::vector<Edge> edges;
  if (rank > 0) edges.push_back({.rank = (rank - 1) / 2});
  for (const int child : {2 * rank + 1, 2 * rank + 2}) {
    if (child < size) edges.push_back({.rank = child});
  }
  return edges;
}

}  // namespace

StopRelay::StopRelay(const Communicator& world, StopSource& source)
    : world_(world.duplicate("stop requests")), source_(source) {
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
  Channel& channel = world_.channel();
  std::vector<Edge> edges = edges_of(world_.rank(), world_.size());
  for (Edge& edge : edges) {
    edge.receive = receive_at_leisure(channel, edge.signal, bytes_of(*edge.signal), edge.rank);
  }
  bool said = false;
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
      if (*edge.signal != 0) source_.request(*edge.signal);
    }
    const int signal = source_.token().signal();
    if (!said && (signal != 0 || ending == Ending::together)) {
      said = true;
      const auto words = std::make_shared<int>(signal);
      for (Edge& edge : edges) {
        edge.send = send_at_leisure(channel, words, bytes_of(*words), edge.rank);
      }
    }
    const auto is_over = [](const Edge& edge) { return edge.heard && edge.send->test(); };
    if (ending == Ending::together && std::ranges::all_of(edges, is_over)) return;
  }
}

}  // namespace trestle::dist
