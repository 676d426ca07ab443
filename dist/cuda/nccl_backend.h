// The lanes of one Collectives over NCCL: one for what all ranks do together, and one for the
// messages of each pair and direction. Internal to the NCCL backend; free of torch.
//
//   NcclBackend backend(communicator, device, options, "gradients");  // COLLECTIVE
//   auto operation = backend.collective(call, bytes, all_gather_steps(mine, all), stream);
//   operation->block(stream);
//
// Messages have communicators of their own because NCCL puts a message behind all that its
// communicator has under way: two ranks that both send first would wait for each other. The first
// message of a pair sets its communicator up; the sender makes the id and MPI carries it.
//
// THREADS: one at a time. The constructor and each call make `device` the thread's current one.
#pragma once
#include "dist/communicator.h"
#include "dist/cuda/nccl_operation.h"
#include "dist/nccl_collectives.h"
#include "dist/operations.h"

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::dist {

class NcclBackend {
 public:
  /// COLLECTIVE over the communicator's ranks.
  NcclBackend(const Communicator& communicator, int device, const NcclOptions& options,
              std::string_view name);
  /// Waits for what is under way and closes the lanes; while an exception unwinds it aborts them.
  ~NcclBackend();
  NcclBackend(const NcclBackend&) = delete;
  NcclBackend& operator=(const NcclBackend&) = delete;

  int device() const { return device_; }
  /// The one that collective operations run on.
  cudaStream_t stream() const { return together_.lane->stream(); }

  /// Starts once `issued_on` has done what it has been given so far. Every rank's call number n is
  /// the same operation.
  std::shared_ptr<NcclOperation> collective(const Call& call, std::size_t bytes,
                                            std::vector<NcclStep> steps, cudaStream_t issued_on);
  std::shared_ptr<NcclOperation> send(const Call& call, std::span<const std::byte> bytes, int to,
                                      cudaStream_t issued_on);
  std::shared_ptr<NcclOperation> receive(const Call& call, std::span<std::byte> bytes, int from,
                                         cudaStream_t issued_on);

 private:
  struct Lane {
    std::shared_ptr<NcclLane> lane = nullptr;
    std::shared_ptr<NcclOperation> last = nullptr;
  };

  std::shared_ptr<NcclOperation> issue(Lane& lane, const OperationInfo& info, const Call& call,
                                       std::vector<NcclStep> steps, cudaStream_t issued_on);
  OperationInfo message_info(const Call& call, std::size_t bytes, int peer, bool is_outgoing);
  Lane& messages_with(int peer, bool is_outgoing);
  std::vector<Lane*> lanes();

  const std::shared_ptr<Channel> calls_;  ///< numbers the operations and carries ids
  const int device_;
  const std::string who_;
  Lane together_;
  std::map<std::pair<int, bool>, Lane> messages_;
  Progress progress_{Progress::Rest::polls};
};

}  // namespace trestle::dist
