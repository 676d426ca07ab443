// How bytes travel between the ranks of one group. Below Communicator and Collectives; nothing
// above dist/ includes it.
//
// A backend has one primitive, start(): point-to-point messages. All collective algorithms are
// written once on top of it, so MPI and simulated ranks give the same bits, and moving every
// message to a progress thread later touches one class.
//
// Two ranks' messages are matched in the order in which each side posted them; both sides know the
// sizes, and a message of zero bytes is not sent at all. THREADS: one transport, one thread.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace trestle::dist {

struct Outgoing {
  int to;
  std::span<const std::byte> bytes;
};

struct Incoming {
  int from;
  std::span<std::byte> bytes;
};

/// Messages under way. Their memory must live until wait() returns or test() says true. A destroyed
/// unfinished operation withdraws the receives that have not been matched yet.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual void wait() = 0;
  virtual bool test() = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// COLLECTIVE; see Communicator::split.
  virtual std::shared_ptr<Transport> split(int color, int key) = 0;
  /// Posts messages to and from other ranks, and returns.
  virtual std::unique_ptr<Operation> start(std::span<const Outgoing> outgoing,
                                           std::span<const Incoming> incoming) = 0;

  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) {
    start(outgoing, incoming)->wait();
  }
};

/// For backends: a message had another size than its receiver expected.
[[noreturn]] void throw_size_mismatch(int rank, int from, size_t expected,
                                      const std::string& arrived);

/// The transport of a rank that is alone.
std::shared_ptr<Transport> make_lone_transport();

/// COLLECTIVE. Every rank's `mine`, all of one size, in rank order: all.size() == size *
/// mine.size(). `mine` may be this rank's own part of `all`.
void gather_equal(Transport& transport, std::span<const std::byte> mine, std::span<std::byte> all);

/// COLLECTIVE. The root's bytes to every rank, along a binomial tree.
void broadcast(Transport& transport, std::span<std::byte> bytes, int root);

/// COLLECTIVE. Returns once every rank has entered; log2(size) rounds of one-byte messages.
void barrier(Transport& transport);

}  // namespace trestle::dist
