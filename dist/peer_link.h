// Messages between ranks over TCP, outside of MPI: MPI does not say when a peer is dead, the kernel
// does. Nothing here blocks except connect_to(), which has a deadline.
//
//   Listener listener;                                  // an ephemeral port on every interface
//   auto link = connect_to(addresses, port, is_the_one, deadline);  // on another rank
//   link.send(1, "hello"); link.flush();
//   bool open = link.receive([](std::uint8_t type, std::string_view payload) { ... });
//
// LOCAL. THREADS: one object, one thread.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::dist {

/// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// One end of a connection. A broken one takes no more messages and says so in receive().
class PeerLink {
 public:
  explicit PeerLink(Descriptor socket);

  int descriptor() const { return socket_.get(); }
  bool open() const { return open_; }

  /// Queues a message and sends what the kernel takes.
  void send(std::uint8_t type, std::string_view payload);
  /// Sends more of what is queued; true if nothing is left.
  bool flush();
  std::size_t queued_bytes() const { return out_.size(); }
  /// Reads what has arrived and hands over every whole message. False once the peer is gone (its
  /// last messages have been handed over then).
  bool receive(const std::function<void(std::uint8_t type, std::string_view payload)>& on_message);
  /// The peer sees the end of the stream after what was queued.
  void finish_sending();

 private:
  Descriptor socket_;
  std::string in_, out_;
  bool open_ = true;
};

/// Accepts connections on every interface, at a port that the system chose.
class Listener {
 public:
  /// Throws Error(environment).
  Listener();
  int port() const { return port_; }
  int descriptor() const { return socket_.get(); }
  std::optional<PeerLink> accept();

 private:
  Descriptor socket_;
  int port_ = 0;
};

/// Numeric addresses of this host's interfaces that are up, the loopback ones last.
std::vector<std::string> local_addresses();

/// Tries the addresses in turn, again and again, until one answers and `is_the_one` (another
/// program may listen at the same port of another host). Throws Error(environment) after the
/// deadline, with the last reason for each.
PeerLink connect_to(const std::vector<std::string>& addresses, int port,
                    const std::function<bool(PeerLink&)>& is_the_one,
                    std::chrono::steady_clock::time_point deadline);

}  // namespace trestle::dist
