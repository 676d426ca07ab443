// How a channel cuts messages into the pieces that its transport posts.
#include "dist/channel.h"

#include <gtest/gtest.h>

#include <numeric>

namespace trestle::dist {
namespace {

/// Remembers the sizes of what is posted.
class Recorder : public Transport {
 public:
  void submit(std::shared_ptr<Operation>) override {}
  std::unique_ptr<Exchange> post(int, std::span<const Outgoing> outgoing,
                                 std::span<const Incoming> incoming) override {
    for (const Outgoing& piece : outgoing) sent.push_back(piece.bytes.size());
    for (const Incoming& piece : incoming) received.push_back(piece.bytes.size());
    return nullptr;
  }
  int largest_tag() const override { return 32767; }

  std::vector<size_t> sent, received;
};

/// The pieces of one message between two of so many ranks.
std::vector<size_t> pieces(int ranks, size_t bytes) {
  auto transport = std::make_shared<Recorder>();
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  Channel channel(transport, 1, members, 0, "test");
  std::vector<std::byte> memory(bytes);
  channel.post({.outgoing = {{1, memory}}, .incoming = {{1, memory}}});
  EXPECT_EQ(transport->sent, transport->received) << "a pair cuts differently";
  return transport->sent;
}

TEST(Channel, ShortMessagesGoUnasked) {
  EXPECT_EQ(pieces(2, 100), std::vector<size_t>{100});
  EXPECT_EQ(pieces(2, 2 * kUnaskedBytes + 5),
            (std::vector<size_t>{kUnaskedBytes, kUnaskedBytes, 5}));
}

TEST(Channel, WhatAllMembersSendUnaskedIsBounded) {
  const size_t most = kMostUnaskedBytes / 4;
  EXPECT_EQ(pieces(4, most).size(), most / kUnaskedBytes);
  EXPECT_EQ(pieces(4, most + 1), std::vector<size_t>{most + 1});
}

}  // namespace
}  // namespace trestle::dist
