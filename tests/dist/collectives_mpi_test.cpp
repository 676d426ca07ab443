// Collectives over MPI ranks.
#include "dist/channel.h"
#include "dist/collectives.h"
#include "dist/mpi_transport.h"
#include "dist/simulated.h"
#include "tests/dist/collective_cases.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>

namespace trestle::dist {
namespace {

using namespace testing_cases;

class EveryCollectives : public testing::TestWithParam<CollectiveCase> {};

TEST_P(EveryCollectives, World) {
  GetParam().run(*make_collectives(Communicator::world()), Site{});
}

TEST_P(EveryCollectives, SmallPieces) {
  // As a tensor beyond 2 GiB would be: many pieces a message, borders inside elements.
  const std::string_view name = GetParam().name;
  size_t piece_bytes = 13;
  if (name.starts_with("many") || name.starts_with("threads")) piece_bytes = 4'099;
  if (name.starts_with("large") || name.starts_with("passes")) piece_bytes = 999'983;
  const auto channel = make_mpi_world_channel();
  channel->cut_messages(piece_bytes);
  GetParam().run(*make_collectives(Communicator(channel)), Site{});
}

INSTANTIATE_TEST_SUITE_P(Cases, EveryCollectives, testing::ValuesIn(kCollectiveCases),
                         [](const auto& info) { return info.param.name; });

TEST(MpiCollectives, PiecesGoUnaskedUnlessTheUserSaysOtherwise) {
  const char* limit = std::getenv("OMPI_MCA_btl_tcp_eager_limit");
  ASSERT_NE(limit, nullptr);
  EXPECT_GT(std::stoull(limit), kUnaskedBytes);
}

TEST(MpiCollectives, SameBitsAsSimulatedRanks) {
  const Communicator world = Communicator::world();
  const auto over_mpi = make_collectives(world);
  for (const int64_t count : {1, 100, 4099}) {
    at::Tensor values = contribution(world.rank(), count, at::kFloat);
    over_mpi->all_reduce(values, ReduceOp::sum).wait();
    simulate(world.size(), [&](const Communicator& simulated) {
      at::Tensor same = contribution(simulated.rank(), count, at::kFloat);
      make_collectives(simulated)->all_reduce(same, ReduceOp::sum).wait();
      EXPECT_TRUE(same_bits(values, same));
    });
  }
}

TEST(MpiCollectives, TwoThreadsUseTwoCollectives) {
  const Communicator world = Communicator::world();
  const auto gradients = make_collectives(world), control = make_collectives(world);
  const auto rounds = [&](Collectives& collectives, int64_t count, int times) {
    const at::Tensor expected = reduced(world.size(), count, at::kDouble, ReduceOp::sum);
    for (int i = 0; i < times; ++i) {
      at::Tensor values = contribution(world.rank(), count, at::kDouble);
      collectives.all_reduce(values, ReduceOp::sum).wait();
      EXPECT_TRUE(same_bits(values, expected)) << "round " << i;
    }
  };
  std::jthread thread([&] { rounds(*control, 3, 100); });
  rounds(*gradients, 20'000, 20);
}

}  // namespace
}  // namespace trestle::dist
