#include "dist/peer_star.h"

#include "base/error.h"
#include "dist/activity.h"

#include <algorithm>
#include <list>
#include <poll.h>
#include <random>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;
using Links = std::vector<std::optional<PeerLink>>;

constexpr std::uint8_t kHello = 1, kWelcome = 2;

std::string random_token() {
  std::random_device source;
  std::string token;
  for (int i = 0; i < 4; ++i) token += fmt::format("{:08x}", source());
  return token;
}

/// Where rank 0 listens, as the others are told.
struct Meeting {
  int port = 0;
  std::string token;
  std::vector<std::string> addresses;
};

std::string encode(const Meeting& meeting) {
  Packer packer;
  packer.number(meeting.port);
  packer.text(meeting.token);
  packer.number(static_cast<std::int64_t>(meeting.addresses.size()));
  for (const auto& address : meeting.addresses) packer.text(address);
  return packer.take();
}

Meeting decode(std::string_view bytes) {
  Unpacker unpacker(bytes);
  Meeting meeting;
  meeting.port = static_cast<int>(unpacker.number());
  meeting.token = unpacker.text();
  for (std::int64_t left = unpacker.number(); left > 0; --left)
    meeting.addresses.push_back(unpacker.text());
  return meeting;
}

/// True once rank 0 has shown that it knows the token.
bool greet(PeerLink& link, const std::string& token, int rank, Clock::time_point deadline) {
  constexpr auto kPatience = std::chrono::seconds(5);
  const auto until = std::min(deadline, Clock::now() + kPatience);
  Packer hello;
  hello.text(token);
  hello.number(rank);
  link.send(kHello, hello.take());
  bool welcome = false;
  while (!welcome && Clock::now() < until) {
    pollfd waiting{link.descriptor(), POLLIN, 0};
    ::poll(&waiting, 1, 50);
    const bool open = link.receive([&](std::uint8_t type, std::string_view payload) {
      welcome = welcome || (type == kWelcome && payload == token);
    });
    if (!open) return false;
  }
  return welcome;
}

/// Rank 0: takes in whoever shows the token, until all have or time is over.
void receive_ranks(Listener& listener, const std::string& token, Links& links,
                   Clock::time_point deadline) {
  std::list<PeerLink> strangers;
  std::size_t missing = links.size() - 1;
  while (missing > 0 && Clock::now() < deadline) {
    std::vector<pollfd> waiting{{listener.descriptor(), POLLIN, 0}};
    for (const PeerLink& stranger : strangers)
      waiting.push_back({stranger.descriptor(), POLLIN, 0});
    ::poll(waiting.data(), waiting.size(), 100);
    while (auto link = listener.accept()) strangers.push_back(*std::move(link));
    for (auto stranger = strangers.begin(); stranger != strangers.end();) {
      std::int64_t rank = 0;
      bool open = false;
      try {
        open = stranger->receive([&](std::uint8_t type, std::string_view payload) {
          if (type != kHello) return;
          Unpacker hello(payload);
          if (hello.text() == token) rank = hello.number();
        });
      } catch (const Error&) {  // not one of us
      }
      const bool known = rank > 0 && rank < static_cast<std::int64_t>(links.size());
      if (known) {
        auto& place = links[static_cast<std::size_t>(rank)];
        if (!place) --missing;
        stranger->send(kWelcome, token);
        place.emplace(std::move(*stranger));
      }
      stranger = known || !open ? strangers.erase(stranger) : std::next(stranger);
    }
  }
}

}  // namespace

Links connect_star(const Communicator& world, double deadline_s) {
  Links links(static_cast<std::size_t>(world.size()));
  if (world.size() == 1) return links;
  std::optional<Listener> listener;
  Meeting meeting;
  world.agreed([&] {
    if (!world.is_root()) return;
    listener.emplace();
    meeting = {listener->port(), random_token(), local_addresses()};
  });
  meeting = decode(world.broadcast_bytes(world.is_root() ? encode(meeting) : "", 0));
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(deadline_s));
  world.agreed([&] {
    if (world.is_root()) {
      receive_ranks(*listener, meeting.token, links, deadline + std::chrono::seconds(1));
      return;  // who did not come has an error of its own, which says more
    }
    links[0] = connect_to(
        meeting.addresses, meeting.port,
        [&](PeerLink& link) { return greet(link, meeting.token, world.rank(), deadline); },
        deadline);
  });
  return links;
}

}  // namespace trestle::dist
