// Collectives over simulated ranks and over none.
#include "dist/collectives.h"

#include "dist/simulated.h"
#include "tests/dist/collective_cases.h"

#include <gtest/gtest.h>

namespace trestle::dist {
namespace {

using namespace testing_cases;

class EveryCollectives : public testing::TestWithParam<CollectiveCase> {};

TEST_P(EveryCollectives, Simulated) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    SCOPED_TRACE(fmt::format("{} ranks", ranks));
    const auto run = [](const Communicator& world) {
      GetParam().run(*make_collectives(world), Site{});
    };
    simulate(ranks, run);
    simulate(ranks, run, Progress::Start::at_once);
  }
}

TEST_P(EveryCollectives, Alone) { GetParam().run(*make_collectives(Communicator::self()), Site{}); }

INSTANTIATE_TEST_SUITE_P(Cases, EveryCollectives, testing::ValuesIn(kCollectiveCases),
                         [](const auto& info) { return info.param.name; });

TEST(Collectives, OrderOfSummationShowsInTheBits) {
  // Otherwise the comparisons with the serial loop would prove nothing about order.
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    EXPECT_FALSE(same_bits(reduced({0, 1, 2}, 257, dtype, ReduceOp::sum),
                           reduced({2, 1, 0}, 257, dtype, ReduceOp::sum)));
  }
}

TEST(Collectives, NanSurvivesEveryReduction) {
  simulate(3, [](const Communicator& world) {
    const auto collectives = make_collectives(world);
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      at::Tensor values = at::full({3}, 1.0f);
      values[world.rank()] = NAN;
      collectives->all_reduce(values, op).wait();
      EXPECT_TRUE(values.isnan().all().item<bool>());
    }
  });
}

TEST(Collectives, SplitGroupsReduceAmongThemselves) {
  simulate(6, [](const Communicator& world) {
    const auto column = make_collectives(world.split(world.rank() % 2, 0));
    const auto row = make_collectives(world.split(world.rank() / 2, 0));
    at::Tensor value = at::full({1}, world.rank(), at::kLong);
    column->all_reduce(value, ReduceOp::sum).wait();
    EXPECT_EQ(value.item<int64_t>(), world.rank() % 2 == 0 ? 0 + 2 + 4 : 1 + 3 + 5);
    row->all_reduce(value, ReduceOp::sum).wait();
    EXPECT_EQ(value.item<int64_t>(), 15);
  });
}

TEST(Collectives, FailureElsewhereEndsAWait) {
  EXPECT_THROW(simulate(2,
                        [](const Communicator& world) {
                          const auto collectives = make_collectives(world);
                          at::Tensor values = at::zeros({5});
                          if (world.rank() == 1) throw std::domain_error("broken");
                          Work unfinished = collectives->recv(values, 1);
                          collectives->all_reduce(values, ReduceOp::sum).wait();
                        }),
               std::domain_error);
}

TEST(Collectives, ResultsAreThereAfterWaitAndNotBefore) {
  // What simulated ranks are for: a caller that reads too early is wrong every time.
  simulate(2, [](const Communicator& world) {
    const auto collectives = make_collectives(world);
    const at::Tensor mine = at::full({4}, 1.0f + world.rank());
    at::Tensor summed = mine.clone(), part = at::zeros({2}), all = at::zeros({8});
    Work sum = collectives->all_reduce(summed, ReduceOp::sum);
    Work scatter = collectives->reduce_scatter(mine, part, ReduceOp::sum);
    Work gather = collectives->all_gather(mine, all);
    EXPECT_TRUE(same_bits(summed, mine));
    EXPECT_TRUE(part.eq(0).all().item<bool>());
    EXPECT_TRUE(all.eq(0).all().item<bool>());
    gather.wait();
    sum.wait();
    scatter.wait();
    EXPECT_TRUE(summed.eq(3).all().item<bool>());
    EXPECT_TRUE(part.eq(3).all().item<bool>());
    EXPECT_TRUE(all.narrow(0, 4, 4).eq(2).all().item<bool>());
  });
}

TEST(Collectives, AnErrorIsThrownOnce) {
  simulate(2, [](const Communicator& world) {
    const auto collectives = make_collectives(world);
    // Rank 1 sends less than rank 0 expects.
    at::Tensor values = at::zeros({world.rank() == 0 ? 8 : 4});
    if (world.rank() == 1) return collectives->send(values, 0).wait();
    Work waited = collectives->recv(values, 1);
    EXPECT_THROW(waited.wait(), Error);
    waited.wait();
    EXPECT_TRUE(waited.test());
  });
  simulate(2, [](const Communicator& world) {
    const auto collectives = make_collectives(world);
    at::Tensor values = at::zeros({world.rank() == 0 ? 8 : 4});
    if (world.rank() == 1) return collectives->send(values, 0).wait();
    Work tested = collectives->recv(values, 1);
    const auto poll = [&] {
      while (!tested.test()) {
      }
    };
    EXPECT_THROW(poll(), Error);
    poll();
  });
}

TEST(Collectives, UnwindingLeavesTheOperationToItself) {
  for (const auto start : {Progress::Start::late, Progress::Start::at_once}) {
    simulate(
        2,
        [](const Communicator& world) {
          const auto collectives = make_collectives(world);
          try {
            at::Tensor lost = at::full({1 << 16}, world.rank());
            // The other rank has not issued it yet: waiting here could last for ever.
            Work work = collectives->all_reduce(lost, ReduceOp::sum);
            throw std::runtime_error("in between");
          } catch (const std::runtime_error&) {
          }
          at::Tensor values = at::ones({3});
          collectives->all_reduce(values, ReduceOp::sum).wait();
          EXPECT_TRUE(values.eq(2).all().item<bool>());
        },
        start);
  }
}

TEST(Collectives, ManyRanks) {
  constexpr int kRanks = 128;
  const at::Tensor expected = reduced(kRanks, 1000, at::kFloat, ReduceOp::sum);
  simulate(kRanks, [&](const Communicator& world) {
    at::Tensor values = contribution(world.rank(), 1000, at::kFloat);
    make_collectives(world)->all_reduce(values, ReduceOp::sum).wait();
    EXPECT_TRUE(same_bits(values, expected));
  });
}

}  // namespace
}  // namespace trestle::dist
