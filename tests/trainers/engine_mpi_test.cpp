// The engine over MPI ranks: the bits of simulated ranks, whatever is sharded, with the plain step
// beside it.
#include "dist/simulated.h"
#include "tests/trainers/trial.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::trainers {
namespace {

using testing::Result;
using testing::Trial;

TEST(MpiEngine, HasTheBitsOfSimulatedRanksInEveryShardMode) {
  const dist::Communicator world = dist::Communicator::world();
  for (unsigned seed = 1; seed <= 3; ++seed) {
    Trial trial;
    trial.model.seed = seed;
    trial.model.lives = seed == 3;
    trial.global_batch = 2 * world.size();
    trial.micro_batch = 2;
    Result simulated;
    dist::simulate(world.size(), [&](const dist::Communicator& rank) {
      const Result mine = run_trial(trial, rank);
      if (rank.is_root()) simulated = mine;
    });
    for (const auto shard :
         {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
      trial.shard = shard;
      expect_equal_bits(run_trial(trial, world), simulated,
                        fmt::format("seed {}, shard mode {}", seed, static_cast<int>(shard)));
    }
  }
}

}  // namespace
}  // namespace trestle::trainers
