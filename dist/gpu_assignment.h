// Which GPU each rank of a run uses.
//
//   const int device = dist::choose_gpu(world, dist::gpu_sharing());   // an index for CUDA
//
// A rank takes the first of its visible GPUs that no rank before it has taken, by the GPU's own
// number (UUID) and not by its place in a list: so it is right whether all ranks of a host see all
// its GPUs, each sees one (Slurm's --gpus-per-task=1: index 0 everywhere), or CUDA_VISIBLE_DEVICES
// orders them differently. NCCL needs one GPU for each rank; two ranks on one are an error that
// names both, unless a test asks for it.
#pragma once
#include "dist/communicator.h"

#include <map>
#include <span>
#include <string>
#include <vector>

namespace trestle::dist {

enum class GpuSharing {
  refused,
  for_tests  ///< several ranks may use one GPU: correct results, no speed to measure
};

/// LOCAL. for_tests if the environment has TRESTLE_SHARE_GPU=1.
GpuSharing gpu_sharing();

/// What one rank sees.
struct VisibleGpus {
  std::string host;
  std::vector<std::string> uuids;  ///< in the order of CUDA's indices
};

/// LOCAL. Empty where there is no GPU or driver; starts no context on any GPU. A build without CUDA
/// sees none.
VisibleGpus visible_gpus();

/// LOCAL, the same on every rank. An index into each rank's list. Throws Error(environment) for a
/// rank without a GPU and, if sharing is refused, for two ranks on one.
std::vector<int> assign_gpus(std::span<const VisibleGpus> ranks, GpuSharing sharing);

/// COLLECTIVE. This rank's part of that; throws the same error on every rank.
int choose_gpu(const Communicator& world, GpuSharing sharing);

/// LOCAL. What NCCL's environment must hold where ranks share a GPU: to the library each rank then
/// looks like a host of its own, and the ranks talk through sockets. `one_host`: through the
/// loopback device. Variables that the user has set stay (see share_gpu()).
std::map<std::string, std::string> shared_gpu_environment(int world_rank, bool one_host);

/// LOCAL. Sets those variables where they are not set. Before the first call of NCCL in the
/// process, which reads them once.
void share_gpu(int world_rank, bool one_host);

}  // namespace trestle::dist
