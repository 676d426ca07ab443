// Who works together: a rank's view of a group of ranks, and exchange of host bytes and numbers.
// Tensors travel through dist/collectives.h, which is made from a Communicator.
//
//   dist::MpiRuntime runtime(&argc, &argv);                 // or dist::simulate(4, body) in a test
//   auto world = dist::Communicator::world();
//   auto recipe = world.agreed([&] { return load(path); });  // fails on all ranks or on none
//   auto hosts = world.all_gather_bytes(hostname());
//   double loss = ...; world.all_reduce(std::span(&loss, 1), dist::ReduceOp::sum);
//
// COLLECTIVE calls are made by every rank of the group, in the same order. The others are LOCAL.
// THREADS: one communicator is used by one thread at a time; different communicators (made by
// split or duplicate) may be used by different threads at once; make them all on one thread. Calls
// put the calling thread to sleep until they are done; the progress thread (dist/progress.h) does
// the work.
// LIFE: a value; copies share the group. Calls after the end of their MpiRuntime fail.
// ERRORS: ExitCode::environment when the MPI library fails, ExitCode::peer when a rank has left or
// ranks issued different operations.
#pragma once
#include "base/error.h"

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace trestle::dist {

class Channel;            // dist/channel.h: the group, below
class OperationObserver;  // dist/operation_observer.h

/// How values of several ranks become one. max and min keep a NaN that any rank brings.
enum class ReduceOp { sum, max, min };

/// An error that every rank of a group throws at the same place, so that all may leave in order
/// (and only one of them needs to print it).
class AgreedError : public Error {
 public:
  using Error::Error;
};

class Communicator {
 public:
  /// One rank, alone. Needs no MPI.
  static Communicator self();
  /// All ranks of the run, on a channel of their own. COLLECTIVE. Needs a live MpiRuntime.
  static Communicator world();

  explicit Communicator(std::shared_ptr<Channel> channel);

  int rank() const;
  int size() const;
  bool is_root() const { return rank() == 0; }

  /// COLLECTIVE. Ranks that give the same color (>= 0) form a group, ordered by key, then by rank.
  /// `name` is what observers call the channel.
  Communicator split(int color, int key, std::string_view name = "split") const;
  /// COLLECTIVE. The same ranks on a channel of their own, for another thread or purpose.
  Communicator duplicate(std::string_view name = "duplicate") const {
    return split(0, rank(), name);
  }

  /// LOCAL. Tells the observer of every operation that this rank issues from now on, on whatever
  /// communicator or Collectives; nullptr ends that. The observer must live until then.
  void observe(OperationObserver* observer) const;

  /// COLLECTIVE. Returns once every rank has called it.
  void barrier() const;
  /// COLLECTIVE. Everyone's bytes (any lengths), indexed by rank.
  std::vector<std::string> all_gather_bytes(std::string_view mine) const;
  /// COLLECTIVE. The root's bytes, on every rank; what others pass is ignored.
  std::string broadcast_bytes(std::string_view mine, int root) const;

  /// COLLECTIVE. Element by element, in place, the same length on every rank. Values are combined
  /// in rank order, so a sum has the same bits on every rank and in every run. For small counts:
  /// each rank sends its values to each other rank.
  void all_reduce(std::span<double> values, ReduceOp op) const;
  void all_reduce(std::span<int64_t> values, ReduceOp op) const;
  /// COLLECTIVE. Everyone's values in rank order, the same length on every rank; as cheap.
  std::vector<int64_t> all_gather(std::span<const int64_t> mine) const;

  /// COLLECTIVE. If any rank brings an exception, every rank throws an AgreedError with the code
  /// and text of the lowest such rank; one of ExitCode::preempted counts only where no rank brings
  /// another. The text starts with "rank R: " (once; R counts the ranks of the run) unless all
  /// ranks failed in the same words. Exceptions that are not an Error count as
  /// ExitCode::environment. A lone rank rethrows its own exception as it is.
  void agree(const std::exception_ptr& mine) const;

  /// COLLECTIVE. Runs the LOCAL function f here, agrees on its failure, and returns its value.
  /// f must not communicate: a rank that fails early would leave the others waiting inside f.
  template <class F>
  auto agreed(F&& f) const;

  Channel& channel() const { return *channel_; }

 private:
  std::vector<std::string> gather(std::string_view kind, std::string_view mine) const;

  std::shared_ptr<Channel> channel_;
};

template <class F>
auto Communicator::agreed(F&& f) const {
  using Value = std::decay_t<std::invoke_result_t<F>>;
  std::exception_ptr failure;
  if constexpr (std::is_void_v<Value>) {
    try {
      std::forward<F>(f)();
    } catch (...) {
      failure = std::current_exception();
    }
    agree(failure);
  } else {
    std::optional<Value> value;
    try {
      value.emplace(std::forward<F>(f)());
    } catch (...) {
      failure = std::current_exception();
    }
    agree(failure);
    return *std::move(value);
  }
}

}  // namespace trestle::dist
