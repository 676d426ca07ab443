// How bytes travel between ranks: MPI, threads of one process, or none (a lone rank). One object a
// rank. Groups of ranks and collective algorithms are written once on top of it (dist/channel.h),
// so that all backends give the same bits. Nothing above dist/ includes it.
//
// THREADS: submit() by any; post() and Exchange by the thread that makes progress.
#pragma once
#include "dist/operation_observer.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace trestle::dist {

class Operation;  // dist/progress.h

struct Outgoing {
  int to;
  std::span<const std::byte> bytes;
};

struct Incoming {
  int from;
  std::span<std::byte> bytes;
};

/// Messages under way. A destroyed unfinished one withdraws the receives that are not matched yet.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual bool test() = 0;
};

/// Where a transport's observer is told, one call at a time. Told when an operation is queued, it
/// gives a receipt by which the rest of that operation's life is reported.
class Observed {
 public:
  struct Receipt {
    OperationObserver* observer = nullptr;
    std::uint64_t id = 0;
  };
  void set(OperationObserver* observer);
  Receipt queued(const OperationInfo& operation);
  void started(const Receipt& receipt);
  void finished(const Receipt& receipt);

 private:
  std::mutex mutex_;
  OperationObserver* observer_ = nullptr;
};

class Transport {
 public:
  virtual ~Transport() = default;
  /// Hands the operation to whoever makes progress here.
  virtual void submit(std::shared_ptr<Operation> operation) = 0;
  /// Posts messages to and from other world ranks. Those of one pair and tag are matched in the
  /// order in which each side posted them. None is empty.
  virtual std::unique_ptr<Exchange> post(int tag, std::span<const Outgoing> outgoing,
                                         std::span<const Incoming> incoming) = 0;
  virtual int largest_tag() const = 0;

  Observed& observed() { return observed_; }
  /// The lowest number that no channel of this rank has had. Channels are made by one thread.
  std::uint32_t next_channel = 1;

 private:
  Observed observed_;
};

/// For backends: a message had another size than its receiver expected.
[[noreturn]] void throw_size_mismatch(int rank, int from, size_t expected,
                                      const std::string& arrived);

/// The transport of a rank that is alone: operations are done when submit() returns.
std::shared_ptr<Transport> make_lone_transport(int largest_tag);

}  // namespace trestle::dist
