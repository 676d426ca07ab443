// Ranks as branch x data: who shares samples with whom, and errors that one branch alone agreed on.
#include "dist/mesh.h"

#include "dist/simulated.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

namespace trestle::dist {
namespace {

TEST(Mesh, OneBranchIsTheWorld) {
  simulate(3, [](const Communicator& world) {
    const Mesh mesh = world;
    EXPECT_EQ(mesh.branches(), 1);
    EXPECT_EQ(mesh.branch(), 0);
    EXPECT_EQ(mesh.data().size(), 3);
    EXPECT_EQ(mesh.data().rank(), world.rank());
    EXPECT_EQ(mesh.across().size(), 1);
  });
}

TEST(Mesh, BranchesAreNeighboursAndMeetAtTheSamePlace) {
  for (const int branches : {2, 3}) {
    simulate(6, [&](const Communicator& world) {
      const Mesh mesh(world, branches);
      const int ranks = 6 / branches;
      EXPECT_EQ(mesh.branch(), world.rank() / ranks);
      EXPECT_EQ(mesh.data().size(), ranks);
      EXPECT_EQ(mesh.data().rank(), world.rank() % ranks);
      EXPECT_EQ(mesh.across().rank(), mesh.branch());
      const auto branch = mesh.data().all_gather_bytes(std::to_string(world.rank()));
      for (int i = 0; i < ranks; ++i)
        EXPECT_EQ(branch[i], std::to_string(mesh.branch() * ranks + i));
      const auto across = mesh.across().all_gather_bytes(std::to_string(world.rank()));
      for (int b = 0; b < branches; ++b)
        EXPECT_EQ(across[b], std::to_string(b * ranks + mesh.data().rank()));
    });
  }
}

TEST(Mesh, WhatOneBranchAgreesOnEndsAllAndNamesTheRankOfTheRun) {
  std::atomic<int> thrown{0};
  simulate(4, [&](const Communicator& world) {
    const Mesh mesh(world, 2);
    try {
      mesh.in_each_branch([&] {
        mesh.data().agreed([&] {
          if (world.rank() == 3) fail(ExitCode::data, "a picture is missing");
        });
      });
    } catch (const AgreedError& error) {
      ++thrown;
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_STREQ(error.what(), "rank 3: a picture is missing");
    }
    world.barrier();  // nobody was left behind
  });
  EXPECT_EQ(thrown, 4);
}

}  // namespace
}  // namespace trestle::dist
