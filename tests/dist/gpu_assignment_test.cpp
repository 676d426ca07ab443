// Which rank uses which GPU. Needs none.
#include "dist/gpu_assignment.h"

#include "dist/nccl_collectives.h"
#include "dist/simulated.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace trestle::dist {
namespace {

using Indices = std::vector<int>;

std::string refusal(const std::vector<VisibleGpus>& ranks) {
  try {
    assign_gpus(ranks, GpuSharing::refused);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
    return error.what();
  }
  return "";
}

TEST(GpuAssignment, RanksOfAHostTakeItsGpusInTurn) {
  const VisibleGpus first{"n1", {"A", "B", "C", "D"}}, second{"n2", {"E", "F", "G", "H"}};
  EXPECT_EQ(assign_gpus({{first, first, second, second, first}}, GpuSharing::refused),
            (Indices{0, 1, 0, 1, 2}));
}

TEST(GpuAssignment, WhoSeesOneGpuTakesIt) {
  // Slurm's --gpus-per-task=1: each task's only GPU has index 0.
  EXPECT_EQ(assign_gpus({{{"n1", {"A"}}, {"n1", {"B"}}, {"n1", {"C"}}}}, GpuSharing::refused),
            (Indices{0, 0, 0}));
  // --gpus-per-task=2.
  EXPECT_EQ(assign_gpus({{{"n1", {"A", "B"}}, {"n1", {"C", "D"}}}}, GpuSharing::refused),
            (Indices{0, 0}));
}

TEST(GpuAssignment, OrdersOfCudaVisibleDevicesMayDiffer) {
  EXPECT_EQ(assign_gpus({{{"n1", {"A", "B"}}, {"n1", {"A", "B"}}}}, GpuSharing::refused),
            (Indices{0, 1}));
  EXPECT_EQ(assign_gpus({{{"n1", {"A", "B"}}, {"n1", {"B", "A"}}}}, GpuSharing::refused),
            (Indices{0, 0}));
}

TEST(GpuAssignment, WhoHasTheFewestToChooseFromChoosesFirst) {
  EXPECT_EQ(assign_gpus({{{"n1", {"A", "B"}}, {"n1", {"A"}}}}, GpuSharing::refused),
            (Indices{1, 0}));
}

TEST(GpuAssignment, TwoRanksOnOneGpuAreNamed) {
  const VisibleGpus host{"n1", {"GPU-a", "GPU-b"}};
  EXPECT_EQ(refusal({{"n0", {"GPU-z"}}, host, host, host}),
            "ranks 1 and 3 on n1 would use the same GPU, GPU-a (NCCL needs one for each rank, and "
            "this host's 3 ranks see too few). Start fewer ranks a host, or ask for more GPUs "
            "(Slurm: --gpus-per-task=1). For a test, TRESTLE_SHARE_GPU=1 lets ranks share one.");
  // The later rank has the shorter list: still named in order.
  EXPECT_TRUE(refusal({{"n1", {"GPU-a"}}, {"n1", {"GPU-a"}}})
                  .starts_with("ranks 0 and 1 on n1 would use the same GPU, GPU-a"));
}

TEST(GpuAssignment, ARankWithoutAGpuIsNamed) {
  EXPECT_TRUE(refusal({{"n1", {"A"}}, {"n2", {}}})
                  .starts_with("rank 1 on n2 sees no GPU (CUDA finds none, or "
                               "CUDA_VISIBLE_DEVICES hides them)."));
  EXPECT_THROW(assign_gpus({{{"n1", {}}}}, GpuSharing::for_tests), Error);
}

TEST(GpuAssignment, SharingSpreadsRanksEvenly) {
  const VisibleGpus host{"n1", {"A", "B"}};
  EXPECT_EQ(assign_gpus({{host, host, host, host, host}}, GpuSharing::for_tests),
            (Indices{0, 1, 0, 1, 0}));
}

TEST(GpuAssignment, AllRanksHearTheSameError) {
  if (!visible_gpus().uuids.empty()) GTEST_SKIP() << "this machine has a GPU";
  simulate(3, [](const Communicator& world) {
    try {
      choose_gpu(world, GpuSharing::refused);
      ADD_FAILURE() << "a GPU out of nowhere";
    } catch (const AgreedError& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("rank 0 on ")) << error.what();
    }
  });
}

TEST(GpuAssignment, NcclWithoutAGpuIsRefusedOnEveryRank) {
  if (!visible_gpus().uuids.empty()) GTEST_SKIP() << "this machine has a GPU";
  simulate(2, [](const Communicator& world) {
    try {
      make_nccl_collectives(world, 0);
      ADD_FAILURE() << "NCCL without a GPU";
    } catch (const AgreedError& error) {
      EXPECT_EQ(error.code(), ExitCode::environment);
#ifdef TRESTLE_WITH_CUDA
      EXPECT_NE(std::string_view(error.what()).find("cannot use GPU 0 (it sees 0)"),
                std::string_view::npos)
          << error.what();
#else
      EXPECT_STREQ(error.what(),
                   "NCCL was asked for, and this program was built without CUDA. Build with "
                   "-DTRESTLE_CUDA=ON, or run on the CPU.");
#endif
    }
  });
}

TEST(GpuAssignment, SharingMakesEachRankAHostOfItsOwn) {
  const auto first = shared_gpu_environment(0, true), second = shared_gpu_environment(1, true);
  EXPECT_NE(first.at("NCCL_HOSTID"), second.at("NCCL_HOSTID"));
  EXPECT_EQ(first.at("NCCL_NET"), "Socket");
  EXPECT_EQ(first.at("NCCL_SOCKET_IFNAME"), "=lo");
  EXPECT_FALSE(shared_gpu_environment(0, false).contains("NCCL_SOCKET_IFNAME"));

  ::setenv("NCCL_ALGO", "Tree", 1);
  share_gpu(7, false);
  EXPECT_STREQ(std::getenv("NCCL_HOSTID"), "trestle-rank-7");
  EXPECT_STREQ(std::getenv("NCCL_ALGO"), "Tree") << "what the user has set stays";
  for (const auto& [name, value] : shared_gpu_environment(0, true)) ::unsetenv(name.c_str());
}

TEST(GpuAssignment, SharingIsAskedForByTheEnvironment) {
  EXPECT_EQ(gpu_sharing(), GpuSharing::refused);
  ::setenv("TRESTLE_SHARE_GPU", "1", 1);
  EXPECT_EQ(gpu_sharing(), GpuSharing::for_tests);
  ::unsetenv("TRESTLE_SHARE_GPU");
}

}  // namespace
}  // namespace trestle::dist
