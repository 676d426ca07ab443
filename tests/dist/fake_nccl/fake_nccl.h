// CUDA's streams and events and NCCL's calls, played on host memory by threads of one process: the
// NCCL backend can be driven without a GPU, with ranks of dist/simulated.h.
//
// It plays what the backend has to cope with. Streams run their tasks later, on threads of their
// own. Calls of NCCL go on behind the caller's back for a while, and a communicator that is used
// meanwhile counts a misuse. Floats are summed from the last rank to the first; max and min drop a
// NaN. A message occupies its communicator until its peer takes it. An abort ends what a stream
// waits for without a result, and is an error to the other ranks.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>

namespace trestle::dist::fake {

/// Does f on the stream, after `delay_ms`.
void on(cudaStream_t stream, std::function<void()> f, int delay_ms = 0);

/// How often the communicators were used against NCCL's rules, since the last call.
int misuses();
/// Communicators that are neither destroyed nor aborted.
int live_communicators();
/// While set, no communicator's set-up comes to its end.
void keep_set_up_waiting(bool is_waiting);
/// The next all-gather of any rank fails at once, with this code (an ncclResult_t).
void fail_next_all_gather(int code);

}  // namespace trestle::dist::fake
