// Collectives over GPU memory, carried by NCCL.
//
//   const int device = dist::choose_gpu(world, dist::gpu_sharing());  // dist/gpu_assignment.h
//   auto gradients = dist::make_nccl_collectives(world, device, {}, "gradients");
//   dist::Work sum = gradients->reduce_scatter(bucket, shard, dist::ReduceOp::sum, "bucket 3");
//   ...                                                // the GPU computes; NCCL works beside it
//   sum.wait();                                        // the current stream waits, not this thread
//
// What dist/collectives.h says holds here too, but for this:
//
// STREAMS: a call takes its tensors as the calling thread's current stream leaves them: it begins
// on the GPU when all that this stream had been given is done. (Who filled a buffer from several
// streams makes the current one wait for them first.) It runs on a stream of the backend's own, of
// high priority. wait() makes the current stream wait for the result, wait_on_host() the thread.
// BUFFERS live on `device`; a Work that was waited for or dropped keeps them until the GPU is done.
// ORDER: the operations of one Collectives run one after the other. Messages are apart from them,
// and from those of other pairs and of the other direction. Two Collectives run side by side as far
// as the GPU has room for the kernels of both: ranks that use them in opposite orders may then wait
// for each other for ever. NCCL connects at first use (messages: at the first of each pair), which
// a GPU whose kernels wait for a peer can hold up: use each once before they run side by side.
// RESULTS: a sum of float32 or float64 has the same bits on every rank, but it is taken in NCCL's
// order, which follows from the topology, the size and NCCL's settings: another world, or another
// machine, may round differently. Sums of int64, max and min (which keep a NaN) and the sums of
// bfloat16 in float32 (in rank order) have the bits of the other backends.
// ERRORS of NCCL and the network reach wait() and test() of what is under way and all later calls:
// the backend is broken then. A rank that is merely late is the watchdog's to name.
// The destructor waits for what is under way; while an exception unwinds it aborts.
#pragma once
#include "dist/collectives.h"
#include "dist/gpu_assignment.h"

#include <memory>
#include <string_view>

namespace trestle::dist {

struct NcclOptions {
  double set_up_timeout_s = 300;
  GpuSharing sharing = GpuSharing::refused;  ///< as it was said to choose_gpu()
};

/// COLLECTIVE. Over the ranks of this communicator, all of which are there within the time-out.
/// `device` is this rank's CUDA index. `name` is what observers call the channel. Throws an
/// AgreedError(environment); a build without CUDA always does.
std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& communicator, int device,
                                                   const NcclOptions& options = {},
                                                   std::string_view name = "collectives");

}  // namespace trestle::dist
