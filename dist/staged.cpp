#include "dist/staged.h"

namespace trestle::dist {

Staged::Staged(Channel& channel, const Call& call, std::int64_t bytes)
    : channel_(channel.shared_from_this()), keep_(call.keep), sequence_(channel.count_call()) {
  receipt_ = channel.transport().observed().queued({.channel = channel.number(),
                                                    .channel_name = channel.name(),
                                                    .members = channel.members(),
                                                    .sequence = sequence_,
                                                    .kind = call.kind,
                                                    .name = call.name,
                                                    .bytes = bytes});
}

Operation::Step Staged::advance() {
  if (!has_turn_) {
    if (!channel_->enter(sequence_)) return Step::waiting;
    has_turn_ = true;
    channel_->transport().observed().started(receipt_);
  } else if (exchange_ && !exchange_->test()) {
    return Step::waiting;
  }
  exchange_.reset();
  messages_.outgoing.clear();
  messages_.incoming.clear();
  const bool goes_on = prepare(stage_, messages_);
  if (goes_on) exchange_ = channel_->post(sequence_, messages_);
  meanwhile(stage_);
  ++stage_;
  if (goes_on) return Step::moved;
  leave();
  channel_->transport().observed().finished(receipt_);
  return Step::finished;
}

void Staged::withdraw() noexcept {
  exchange_.reset();
  leave();
}

void Staged::leave() {
  if (std::exchange(has_turn_, false)) channel_->leave(sequence_);
}

}  // namespace trestle::dist
