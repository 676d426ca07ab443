// Two levels over MPI ranks, which stand for hosts as the test says.
#include "dist/collectives.h"
#include "dist/mpi_transport.h"
#include "tests/dist/two_level_cases.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::dist {
namespace {

using namespace two_level_cases;

class TwoLevelOverMpi : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (Communicator::world().size() != topology_->ranks())
      GTEST_SKIP() << topology_->ranks() << " ranks stand for " << topology_->to_text();
  }
  SharedTopology topology_ = hosts(GetParam());
};

TEST_P(TwoLevelOverMpi, KeepsTheOrderMovesTheBytes) { run_all(Communicator::world(), topology_); }

TEST_P(TwoLevelOverMpi, InManyChunks) {
  large_ones_go_in_many_chunks(Communicator::world().channel(), topology_, 1'400'001);
}

TEST_P(TwoLevelOverMpi, InSmallPieces) {
  // As a tensor beyond 2 GiB would be: many pieces a message, borders inside elements.
  const auto channel = make_mpi_world_channel();
  channel->cut_messages(1013);
  every_arithmetic_keeps_the_order(*channel, topology_);
  gathers_everything(*channel, topology_);
}

TEST_P(TwoLevelOverMpi, CollectivesTakeTheTopology) {
  const Communicator world = Communicator::world();
  const auto collectives = make_collectives(world, "two levels", {.two_level = *topology_});
  EXPECT_FALSE(collectives->sums_in_rank_order());
  const auto expected = reduced_by_hosts<float, float>(*topology_, 1001, ReduceOp::sum);
  const auto mine = contribution<float>(world.rank(), 1001);
  at::Tensor sum = at::tensor(mine);
  collectives->all_reduce(sum, ReduceOp::sum).wait();
  EXPECT_TRUE(at::equal(sum, at::tensor(expected)));
}

INSTANTIATE_TEST_SUITE_P(Hosts, TwoLevelOverMpi, testing::Values("aabb", "abab", "abba"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace trestle::dist
