#include "dist/gpu_assignment.h"

#include "dist/binding.h"
#include "dist/launch_check.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <sstream>

namespace trestle::dist {
namespace {

std::string encode(const VisibleGpus& gpus) {
  std::string text = gpus.host;
  for (const std::string& uuid : gpus.uuids) text += "\n" + uuid;
  return text;
}

VisibleGpus decode(const std::string& text) {
  std::istringstream lines(text);
  VisibleGpus gpus;
  std::getline(lines, gpus.host);
  for (std::string line; std::getline(lines, line);) gpus.uuids.push_back(line);
  return gpus;
}

[[noreturn]] void refuse_sharing(std::span<const VisibleGpus> ranks, int first, int second,
                                 const std::string& uuid) {
  const std::string& host = ranks[second].host;
  const auto on_host =
      std::ranges::count_if(ranks, [&](const VisibleGpus& rank) { return rank.host == host; });
  fail(ExitCode::environment,
       "ranks {} and {} on {} would use the same GPU, {} (NCCL needs one for each rank, and this "
       "host's {} ranks see too few). Start fewer ranks a host, or ask for more GPUs (Slurm: "
       "--gpus-per-task=1). For a test, TRESTLE_SHARE_GPU=1 lets ranks share one.",
       std::min(first, second), std::max(first, second), host, uuid, on_host);
}

}  // namespace

GpuSharing gpu_sharing() {
  return process_environment("TRESTLE_SHARE_GPU").value_or("") == "1" ? GpuSharing::for_tests
                                                                      : GpuSharing::refused;
}

std::vector<int> assign_gpus(std::span<const VisibleGpus> ranks, GpuSharing sharing) {
  // Who has the fewest to choose from chooses first: {A, B} and {A} both find one.
  std::vector<int> order(ranks.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](int rank) { return ranks[rank].uuids.size(); });

  std::map<std::string, std::vector<int>> users;
  std::vector<int> chosen(ranks.size(), -1);
  for (const int rank : order) {
    const std::vector<std::string>& visible = ranks[rank].uuids;
    TRESTLE_REQUIRE_AS(environment, !visible.empty(),
                       "rank {} on {} sees no GPU (CUDA finds none, or CUDA_VISIBLE_DEVICES hides "
                       "them). Ask for GPUs on every host (Slurm: --gpus-per-task=1), and try "
                       "nvidia-smi there.",
                       rank, ranks[rank].host);
    const auto least = std::ranges::min_element(
        visible, {}, [&](const std::string& uuid) { return users[uuid].size(); });
    if (sharing == GpuSharing::refused && !users[*least].empty()) {
      refuse_sharing(ranks, users[*least].front(), rank, *least);
    }
    users[*least].push_back(rank);
    chosen[rank] = static_cast<int>(least - visible.begin());
  }
  return chosen;
}

int choose_gpu(const Communicator& world, GpuSharing sharing) {
  const std::string mine = world.agreed([] { return encode(visible_gpus()); });
  std::vector<VisibleGpus> ranks;
  for (const std::string& text : world.all_gather_bytes(mine)) ranks.push_back(decode(text));
  return world.agreed([&] { return assign_gpus(ranks, sharing)[world.rank()]; });
}

std::map<std::string, std::string> shared_gpu_environment(int world_rank, bool one_host) {
  std::map<std::string, std::string> variables = {
      {"NCCL_HOSTID", fmt::format("trestle-rank-{}", world_rank)},
      {"NCCL_NET", "Socket"},
      {"NCCL_NET_PLUGIN", "none"},
      {"NCCL_ALGO", "Ring"},
      {"NCCL_PROTO", "Simple"},
      // Kernels of all ranks wait for each other: they must fit on the GPU side by side.
      {"NCCL_MAX_CTAS", "2"},
      {"NCCL_NVLS_ENABLE", "0"},
      {"NCCL_MNNVL_ENABLE", "0"},
      {"NCCL_RAS_ENABLE", "0"},
  };
  if (one_host) variables["NCCL_SOCKET_IFNAME"] = "=lo";
  return variables;
}

void share_gpu(int world_rank, bool one_host) {
  for (const auto& [name, value] : shared_gpu_environment(world_rank, one_host)) {
    ::setenv(name.c_str(), value.c_str(), /*overwrite=*/0);
  }
}

}  // namespace trestle::dist
