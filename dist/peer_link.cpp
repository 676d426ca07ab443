#include "dist/peer_link.h"

#include "base/error.h"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <ifaddrs.h>
#include <memory>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;

/// More is no message of ours.
constexpr std::uint32_t kLongestMessage = 64 << 20;
constexpr std::size_t kHeaderBytes = sizeof(std::uint32_t) + 1;

void make_quick(int fd) {
  const int on = 1;  // a verdict must not wait for more bytes to fill a packet
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// Only numbers: no name server is asked.
AddressList parsed(const std::string& address, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    found = nullptr;
  return {found, &::freeaddrinfo};
}

/// A connected socket, or why there is none (an errno).
struct Attempt {
  Descriptor socket;
  int problem = 0;
};

Attempt try_address(const std::string& address, int port, Clock::time_point deadline) {
  const AddressList list = parsed(address, port);
  if (!list) return {Descriptor(), EADDRNOTAVAIL};
  Descriptor socket(
      ::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  if (socket.get() < 0) return {Descriptor(), errno};
  if (::connect(socket.get(), list->ai_addr, list->ai_addrlen) == 0) return {std::move(socket), 0};
  if (errno != EINPROGRESS) return {Descriptor(), errno};
  // An address behind a wall answers nothing; the others deserve their turn.
  constexpr auto kPatience = std::chrono::seconds(2);
  const auto until = std::min(deadline, Clock::now() + kPatience);
  pollfd waiting{socket.get(), POLLOUT, 0};
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    const int ready = ::poll(&waiting, 1, std::max<int>(0, static_cast<int>(left.count())));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return {Descriptor(), ETIMEDOUT};
    break;
  }
  int problem = 0;
  socklen_t size = sizeof problem;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &problem, &size);
  if (problem != 0) return {Descriptor(), problem};
  return {std::move(socket), 0};
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

PeerLink::PeerLink(Descriptor socket) : socket_(std::move(socket)) { make_quick(socket_.get()); }

void PeerLink::send(std::uint8_t type, std::string_view payload) {
  if (!open_) return;
  const auto size = static_cast<std::uint32_t>(payload.size());
  out_.append(reinterpret_cast<const char*>(&size), sizeof size);
  out_ += static_cast<char>(type);
  out_ += payload;
  flush();
}

bool PeerLink::flush() {
  std::size_t sent = 0;
  while (open_ && sent < out_.size()) {
    const ssize_t n = ::send(socket_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      // What the peer said before it went is still to be read; receive() finds the end.
      out_.clear();
      return true;
    }
  }
  out_.erase(0, sent);
  return out_.empty();
}

bool PeerLink::receive(
    const std::function<void(std::uint8_t type, std::string_view payload)>& on_message) {
  std::array<char, 65536> buffer;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled by recv
  while (open_) {
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (n > 0) {
      in_.append(buffer.data(), static_cast<std::size_t>(n));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      break;
    } else {
      open_ = false;
    }
  }
  std::size_t used = 0;
  while (in_.size() - used >= kHeaderBytes) {
    std::uint32_t size = 0;
    std::memcpy(&size, in_.data() + used, sizeof size);
    if (size > kLongestMessage) {
      open_ = false;
      break;
    }
    if (in_.size() - used - kHeaderBytes < size) break;
    const auto type = static_cast<std::uint8_t>(in_[used + sizeof size]);
    on_message(type, std::string_view(in_).substr(used + kHeaderBytes, size));
    used += kHeaderBytes + size;
  }
  in_.erase(0, used);
  return open_;
}

void PeerLink::finish_sending() {
  flush();
  ::shutdown(socket_.get(), SHUT_WR);
}

Listener::Listener() {
  const auto refuse = [](const char* call) {
    fail(ExitCode::environment,
         "the watchdog cannot listen for the other ranks ({}: {}). Let processes open TCP sockets, "
         "or set dist.watchdog = false.",
         call, std::strerror(errno));
  };
  // An IPv6 socket hears IPv4, too; where there is no IPv6, an IPv4 one has to do.
  socket_ = Descriptor(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  const int off = 0;
  const bool six =
      socket_.get() >= 0 &&
      ::setsockopt(socket_.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
      ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&any6), sizeof any6) == 0;
  if (!six) {
    socket_ = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in any4{};
    any4.sin_family = AF_INET;
    if (socket_.get() < 0) refuse("socket");
    if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&any4), sizeof any4) != 0)
      refuse("bind");
  }
  if (::listen(socket_.get(), SOMAXCONN) != 0) refuse("listen");
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0)
    refuse("getsockname");
  port_ = ntohs(six ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                    : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

std::optional<PeerLink> Listener::accept() {
  const int fd = ::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return std::nullopt;
  return PeerLink(Descriptor(fd));
}

std::vector<std::string> local_addresses() {
  std::vector<std::string> outer, loopback;
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return {"127.0.0.1"};
  for (const ifaddrs* i = first; i; i = i->ifa_next) {
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) continue;
    const int family = i->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    char text[NI_MAXHOST] = "";
    if (::getnameinfo(i->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    const std::string address = text;
    if (address.find('%') != std::string::npos) continue;  // means nothing on another host
    (i->ifa_flags & IFF_LOOPBACK ? loopback : outer).push_back(address);
  }
  ::freeifaddrs(first);
  outer.insert(outer.end(), loopback.begin(), loopback.end());
  return outer;
}

PeerLink connect_to(const std::vector<std::string>& addresses, int port,
                    const std::function<bool(PeerLink&)>& is_the_one, Clock::time_point deadline) {
  std::string problems;
  do {
    problems.clear();
    for (const std::string& address : addresses) {
      Attempt attempt = try_address(address, port, deadline);
      const char* problem = "another program answers";
      if (attempt.problem != 0) {
        problem = std::strerror(attempt.problem);
      } else {
        PeerLink link(std::move(attempt.socket));
        if (is_the_one(link)) return link;
      }
      problems += fmt::format("{}{}: {}", problems.empty() ? "" : ", ", address, problem);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  } while (Clock::now() < deadline);
  fail(ExitCode::environment,
       "the watchdog of rank 0 cannot be reached at port {} ({}). Allow TCP connections between "
       "the hosts, or set dist.watchdog = false.",
       port, problems);
}

}  // namespace trestle::dist
