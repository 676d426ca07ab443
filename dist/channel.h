// Some ranks and a number that keeps their messages apart from everyone else's: what a Communicator
// and a Collectives talk through. Nothing above dist/ includes it.
//
// The number travels in the tag of every message, so a new group costs one small exchange over its
// parent and no call that would block inside MPI. A call on a channel has a sequence number, equal
// on all members, and its tag says which of the kWindow calls in flight it belongs to: calls
// progress side by side, and their messages do not meet. Later calls wait for their turn.
//
// THREADS: split() and the making of operations by one thread at a time; what is marked PROGRESS by
// the thread that makes progress.
#pragma once
#include "dist/progress.h"
#include "dist/transport.h"

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::dist {

/// MPI counts in int: longer messages travel in pieces of at most this many bytes.
inline constexpr size_t kPieceBytes = size_t{1} << 30;
/// Over TCP, Open MPI asks the receiver before it sends a piece longer than its eager limit, and
/// the answer queues behind what the receiver sends itself: where both send, the link stands still
/// for a third of the time. Shorter messages therefore travel in pieces that go unasked (MpiRuntime
/// sets the limit). That costs a copy on each side, so not where a call's messages to all members
/// are more than kMostUnaskedBytes together.
inline constexpr size_t kUnaskedBytes = size_t{1} << 20;
inline constexpr size_t kMostUnaskedBytes = size_t{32} << 20;

struct Messages {
  std::vector<Outgoing> outgoing = {};
  std::vector<Incoming> incoming = {};
};

class Channel : public std::enable_shared_from_this<Channel> {
 public:
  static constexpr int kWindow = 4;

  /// `rank` is this one's place among `members`, which are world ranks.
  Channel(std::shared_ptr<Transport> transport, std::uint32_t number, std::vector<int> members,
          int rank, std::string_view name);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  std::uint32_t number() const { return number_; }
  const std::string& name() const { return name_; }
  const std::vector<int>& members() const { return members_; }
  Transport& transport() const { return *transport_; }

  /// COLLECTIVE; see Communicator::split. The groups of different splits that share a pair of ranks
  /// have different numbers; those of one split, which share none, have the same.
  std::shared_ptr<Channel> split(int color, int key, std::string_view name);
  /// For tests: another size of pieces, the same on all members.
  void cut_messages(size_t piece_bytes) { piece_bytes_ = piece_bytes; }

  /// The next sequence number of a collective call, or of a message to or from a member.
  std::uint64_t count_call() { return calls_++; }
  std::uint64_t count_message(int peer, bool is_outgoing) {
    return messages_[2 * peer + (is_outgoing ? 1 : 0)]++;
  }

  /// PROGRESS. Whether this call has its turn; if so, it has the tag and the staging memory of its
  /// slot until leave().
  bool enter(std::uint64_t call);
  void leave(std::uint64_t call) { slots_[slot_of(call)].is_taken = false; }
  std::byte* staging(std::uint64_t call, size_t bytes);
  /// PROGRESS. Posts messages of a call, or of none: those are matched in posted order. Ranks are
  /// members. Null where there is nothing to send or receive.
  std::unique_ptr<Exchange> post(std::uint64_t call, const Messages& messages);
  std::unique_ptr<Exchange> post(const Messages& messages);

 private:
  struct Slot {
    bool is_taken = false;
    std::unique_ptr<std::byte[]> staging;
    size_t staging_bytes = 0;
  };
  static constexpr int kTags = kWindow + 1;  // the first is for messages outside calls
  static size_t slot_of(std::uint64_t call) { return call % kWindow; }
  size_t piece_of(size_t message_bytes) const;
  std::unique_ptr<Exchange> post_with(int tag, const Messages& messages);

  std::shared_ptr<Transport> transport_;
  std::uint32_t number_;
  std::vector<int> members_;
  int rank_;
  std::string name_;
  size_t piece_bytes_ = kPieceBytes;
  std::uint64_t calls_ = 0;
  std::vector<std::uint64_t> messages_;
  std::uint64_t next_to_enter_ = 0;
  std::array<Slot, kWindow> slots_;
};

}  // namespace trestle::dist
