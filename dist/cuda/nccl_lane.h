// A NCCL communicator and the stream on which its operations run, one after the other in the order
// in which they were issued. Internal to the NCCL backend; free of torch.
//
//   NcclLane lane(device, "rank 3 on n2");
//   lane.join({.id = id, .rank = 3, .size = 8}, 300s);   // starts the set-up and returns
//   while (!lane.is_ready()) { ... }                     // throws if it fails or takes longer
//
// Everything is NON-BLOCKING: a call of NCCL either succeeds or goes on in a thread of NCCL's, and
// settled() says when it is through. Before that the communicator takes no other call.
//
// THREADS: one at a time (the backend's progress thread, once operations are issued); count() for
// the thread that issues them, check() for any. FAILURE breaks the lane for good: the communicator
// is aborted, which also ends kernels that wait on the GPU for a peer, and every later call throws
// the first failure.
#pragma once
#include "dist/cuda/cuda_check.h"

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace trestle::dist {

class NcclLane {
 public:
  using Patience = std::chrono::duration<double>;
  struct Membership {
    ncclUniqueId id;
    int rank, size;
  };
  /// Nothing until the id has arrived. May throw.
  using Invitation = std::function<std::optional<Membership>()>;

  /// `who` stands in messages: "rank 3 on n2". Makes `device` the thread's current one.
  NcclLane(int device, std::string who);
  /// Aborts what close() has not ended.
  ~NcclLane();
  NcclLane(const NcclLane&) = delete;
  NcclLane& operator=(const NcclLane&) = delete;

  /// Starts the set-up with the other members. Without patience it may take any time: the other
  /// ranks may be late for good reasons, and the watchdog names them.
  void join(const Membership& membership, std::optional<Patience> patience);
  /// The same as soon as there is an invitation, for which is_ready() asks.
  void join_when(Invitation invitation, std::optional<Patience> patience);
  bool is_ready();

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_.get(); }
  ncclComm_t communicator() const { return communicator_; }

  /// An operation's place in the order.
  std::int64_t count() { return issued_++; }
  /// Whether the operation of this place may call NCCL. From then to leave() no other one may.
  bool enter(std::int64_t place);
  void leave();
  /// Whether NCCL is through with the last call. Throws what has gone wrong in it or, on the GPU or
  /// the network, since. `what` names the operation that asks.
  bool settled(std::string_view what);
  [[noreturn]] void failed(std::string_view what, ncclResult_t code);

  /// Throws the failure that has broken the lane, if one has.
  void check() const;
  /// Only the first failure counts.
  void break_with(const std::exception_ptr& failure) noexcept;

  /// All operations are done: leaves the other members. Start this on all lanes before the first is
  /// finished: their members may come in different orders. What does not end is aborted, with a
  /// warning.
  void start_closing() noexcept;
  void finish_closing() noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { alone, joining, ready };

  void abort() noexcept;

  const int device_;
  const std::string who_;
  CudaStream stream_;
  ncclComm_t communicator_ = nullptr;
  State state_ = State::alone;
  Invitation invitation_;
  std::optional<Patience> patience_;
  Clock::time_point joined_at_;
  std::int64_t issued_ = 0, next_ = 0;
  bool is_taken_ = false;

  mutable std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace trestle::dist
