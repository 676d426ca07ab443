// What a flight recorder hears about the operations of this rank.
//
//   class Ring : public dist::OperationObserver { ... };
//   Ring ring;
//   world.observe(&ring);       // every channel of this rank, also those made before
//   ... collectives->all_reduce(bucket, dist::ReduceOp::sum, "bucket 3") ...
//   world.observe(nullptr);     // after this returns nothing calls the ring any more
//
// LOCAL. THREADS: queued() runs on the thread that made the call, started() and finished() on the
// thread that makes progress; one call at a time. They must be quick and must not communicate.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace trestle::dist {

/// Views are valid during the call only.
struct OperationInfo {
  /// Groups that share a member have different numbers; the parts of one split share theirs.
  std::uint32_t channel;
  std::string_view channel_name;
  std::span<const int> members;  ///< world ranks of the channel, in its order
  /// The how manieth collective call on the channel, from 0: equal on all members for the same
  /// call. A send or recv counts the messages to or from its peer instead.
  std::uint64_t sequence;
  std::string_view kind;  ///< "all_reduce", "barrier", "agree", "send" ...
  std::string_view name;  ///< what the caller said, "bucket 3"; may be empty
  std::int64_t bytes;     ///< of the whole tensor or text as this rank gave it
  int peer = -1;          ///< the other world rank of a send or recv
};

class OperationObserver {
 public:
  virtual ~OperationObserver() = default;
  /// Returns the id by which the operation is named from then on.
  virtual std::uint64_t queued(const OperationInfo& operation) = 0;
  /// It has its turn: its messages are posted from now on.
  virtual void started(std::uint64_t id) = 0;
  /// Its buffers are the caller's again. One that fails never finishes.
  virtual void finished(std::uint64_t id) = 0;
};

}  // namespace trestle::dist
