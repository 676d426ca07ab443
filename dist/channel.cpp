#include "dist/channel.h"

#include "base/error.h"
#include "dist/operations.h"

#include <algorithm>

namespace trestle::dist {
namespace {

template <class Message, class Byte>
void append_pieces(std::vector<Message>& pieces, int world_rank, std::span<Byte> bytes,
                   size_t piece_bytes) {
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    pieces.push_back({world_rank, bytes.subspan(at, std::min(piece_bytes, bytes.size() - at))});
  }
}

}  // namespace

Channel::Channel(std::shared_ptr<Transport> transport, std::uint32_t number,
                 std::vector<int> members, int rank, std::string_view name)
    : transport_(std::move(transport)),
      number_(number),
      members_(std::move(members)),
      rank_(rank),
      name_(name),
      messages_(2 * members_.size()) {}

std::shared_ptr<Channel> Channel::split(int color, int key, std::string_view name) {
  struct Wish {
    int color, key, rank;
    std::uint32_t next_channel;
  };
  const Wish mine{color, key, rank_, transport_->next_channel};
  std::vector<Wish> wishes(size());
  all_gather(*this, {.kind = "split", .name = name}, std::as_bytes(std::span(&mine, 1)),
             std::as_writable_bytes(std::span(wishes)))
      ->wait();
  // Above every number that a member has had: no two channels of a pair of ranks share one.
  const std::uint32_t number = std::ranges::max(wishes, {}, &Wish::next_channel).next_channel;
  const int largest_tag = transport_->largest_tag();
  TRESTLE_REQUIRE_AS(environment, static_cast<int64_t>(number) * kTags + kTags - 1 <= largest_tag,
                     "this run asks for its channel number {}, and the tags of this MPI library "
                     "end at {} (every channel has {} tags, which are never used again). Restart "
                     "the run, or use an MPI transport with larger tags.",
                     number, largest_tag, kTags);
  transport_->next_channel = number + 1;

  std::erase_if(wishes, [&](const Wish& wish) { return wish.color != color; });
  std::ranges::stable_sort(wishes, {}, &Wish::key);  // they stand in the order of ranks
  std::vector<int> members;
  int rank = 0;
  for (const Wish& wish : wishes) {
    if (wish.rank == rank_) rank = static_cast<int>(members.size());
    members.push_back(members_[wish.rank]);
  }
  auto part = std::make_shared<Channel>(transport_, number, std::move(members), rank, name);
  part->cut_messages(piece_bytes_);
  return part;
}

bool Channel::enter(std::uint64_t call) {
  Slot& slot = slots_[slot_of(call)];
  if (call != next_to_enter_ || slot.is_taken) return false;
  slot.is_taken = true;
  ++next_to_enter_;
  return true;
}

std::byte* Channel::staging(std::uint64_t call, size_t bytes) {
  Slot& slot = slots_[slot_of(call)];
  if (slot.staging_bytes < bytes) {
    slot.staging = std::make_unique_for_overwrite<std::byte[]>(bytes);
    slot.staging_bytes = bytes;
  }
  return slot.staging.get();
}

std::unique_ptr<Exchange> Channel::post(std::uint64_t call, const Messages& messages) {
  return post_with(1 + static_cast<int>(slot_of(call)), messages);
}

std::unique_ptr<Exchange> Channel::post(const Messages& messages) { return post_with(0, messages); }

size_t Channel::piece_of(size_t message_bytes) const {
  const bool unasked = message_bytes * members_.size() <= kMostUnaskedBytes;
  return std::min(piece_bytes_, unasked ? kUnaskedBytes : kPieceBytes);
}

std::unique_ptr<Exchange> Channel::post_with(int tag, const Messages& messages) {
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (const Outgoing& message : messages.outgoing) {
    append_pieces(outgoing, members_[message.to], message.bytes, piece_of(message.bytes.size()));
  }
  for (const Incoming& message : messages.incoming) {
    append_pieces(incoming, members_[message.from], message.bytes, piece_of(message.bytes.size()));
  }
  if (outgoing.empty() && incoming.empty()) return nullptr;
  return transport_->post(static_cast<int>(number_) * kTags + tag, outgoing, incoming);
}

}  // namespace trestle::dist
