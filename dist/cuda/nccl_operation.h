// An operation of the NCCL backend: what is put on a lane's stream, from the moment at which it is
// issued until the GPU has done it. Internal to the NCCL backend; free of torch.
//
//   auto operation = std::make_shared<NcclOperation>(lane, report, what, keep, steps, stream);
//   progress.submit(operation);
//   operation->block(stream);       // what the stream is given from now on finds the result
//
// It begins once its lane has its turn for it and, on the GPU, once all that `stream` had been
// given when it was issued is done: inputs are ready then and outputs are free. `keep` holds the
// tensors until the GPU is done with them, so that the caching allocator need not be told of the
// second stream (record_stream would hold memory for longer, by a time nobody controls).
//
// THREADS: made on the issuing thread, with its device the current one; block(), wait_on_host()
// and is_complete() by one thread at a time; the rest happens on the progress thread.
#pragma once
#include "dist/channel.h"
#include "dist/cuda/nccl_lane.h"
#include "dist/progress.h"

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace trestle::dist {

/// One call of NCCL, or kernels, on the stream given. The next step follows when NCCL has put the
/// call there.
using NcclStep = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

/// Where the operation's life is told.
struct NcclReport {
  std::shared_ptr<Channel> channel;
  Observed::Receipt receipt;
};

class NcclOperation : public Operation {
 public:
  /// `what` names it in messages: all_reduce "bucket 3".
  NcclOperation(std::shared_ptr<NcclLane> lane, NcclReport report, std::string what,
                std::shared_ptr<const void> keep, std::vector<NcclStep> steps,
                cudaStream_t issued_on);

  /// All three throw what went wrong. This thread sleeps until the operation is on its stream.
  void block(cudaStream_t stream);
  /// Sleeps until the GPU is done.
  void wait_on_host();
  bool is_complete();

  bool is_urgent() const override { return state_ != State::running; }

 private:
  enum class State { queued, launching, running };
  enum class Launch { pending, done, failed };

  Step advance() override;
  Step launch();
  void withdraw() noexcept override;
  void set_launch(Launch launch) noexcept;
  Launch launch_so_far();
  void wait_until_launched();

  const std::shared_ptr<NcclLane> lane_;
  const NcclReport report_;
  const std::string what_;
  std::shared_ptr<const void> keep_;
  const std::vector<NcclStep> steps_;
  CudaEvent may_begin_, done_;
  std::int64_t place_ = 0;
  State state_ = State::queued;
  size_t next_step_ = 0;

  std::mutex mutex_;
  std::condition_variable launched_;
  Launch launch_ = Launch::pending;
};

}  // namespace trestle::dist
