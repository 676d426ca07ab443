// Collective operations as stages: each posts messages, and the next begins when they have arrived.
// Internal to the operations of dist/.
//
//   class Exchange2 : public Staged {
//     bool prepare(int64_t stage, Messages& messages) override {
//       if (stage == 1) return false;              // all stages are over
//       messages.outgoing.push_back({other, mine});
//       messages.incoming.push_back({other, theirs});
//       return true;
//     }
//   };
#pragma once
#include "dist/operations.h"

#include <optional>
#include <utility>

namespace trestle::dist {

class Staged : public Operation {
 public:
  /// On the issuing thread: takes the channel's next sequence number.
  Staged(Channel& channel, const Call& call, std::int64_t bytes);

 protected:
  /// Fills in the messages of a stage, counted from 0; false after the last one.
  virtual bool prepare(std::int64_t stage, Messages& messages) = 0;
  /// What can be done while they travel, with what the stage before brought. Called after the last
  /// stage too.
  virtual void meanwhile(std::int64_t /*stage*/) {}

  const Channel& channel() const { return *channel_; }
  int rank() const { return channel_->rank(); }
  int size() const { return channel_->size(); }
  std::byte* staging(size_t bytes) { return channel_->staging(sequence_, bytes); }

 private:
  Step advance() final;
  void withdraw() noexcept final;
  void leave();

  std::shared_ptr<Channel> channel_;
  std::shared_ptr<const void> keep_;
  std::uint64_t sequence_;
  Observed::Receipt receipt_;
  bool has_turn_ = false;
  std::int64_t stage_ = 0;
  Messages messages_;
  std::unique_ptr<Exchange> exchange_;  // declared last: withdrawn before what it writes to
};

/// What a reduction receives from all ranks together before it adds: small enough to add from
/// cache, large enough for full bandwidth. Twice: one half is added while the other fills. The
/// result does not depend on it.
inline constexpr std::int64_t kStagingBytes = std::int64_t{4} << 20;

/// Makes an operation of a channel and hands it over.
template <class T, class... Arguments>
Pending issue(Channel& channel, Arguments&&... arguments) {
  auto operation = std::make_shared<T>(channel, std::forward<Arguments>(arguments)...);
  channel.transport().submit(operation);
  return operation;
}

}  // namespace trestle::dist
