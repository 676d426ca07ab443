// A forward that reads parameters while they are gathered waits for each where it reads it, and for
// no other. Simulated ranks start nothing before somebody waits, so who reads too early is seen.
#include "trainers/forward_gate.h"

#include "dist/simulated.h"
#include "models/nn/rms_norm.h"
#include "trainers/optim/fused_adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

namespace trestle::trainers {
namespace {

constexpr std::int64_t kNumel = 512;  // two blocks: a shard a rank

/// Four parameters in four buckets; what this rank steps is 1 + its number, the rest stays 0 until
/// it is gathered. `read` runs behind the gate.
void gathered_behind_gate(
    const std::function<void(const std::vector<at::Tensor>&, const ShardedGroup&)>& read) {
  dist::simulate(2, [&](const dist::Communicator& world) {
    std::vector<dist::NamedLeaf> leaves;
    for (int i = 0; i < 4; ++i)
      leaves.push_back({fmt::format("p{}", i), at::zeros({kNumel}).requires_grad_(true)});
    std::vector<at::Tensor> parameters;
    for (const auto& leaf : leaves) parameters.push_back(leaf.tensor);
    const auto collectives = dist::make_collectives(world);
    const FusedAdamW optimizer{AdamWOptions{}};
    std::deque<ShardedGroup> groups;
    groups.emplace_back(
        std::make_unique<dist::FlatGroup>("g", std::move(leaves),
                                          dist::BucketOptions{.ranks = 2, .bucket_bytes = 4}),
        optimizer, *collectives, ShardedGroupOptions{});
    ShardedGroup& group = groups.front();
    ASSERT_EQ(group.flat().plan().buckets().size(), 4U);
    for (std::size_t b = 0; b < 4; ++b) {
      for (const std::size_t i : group.flat().plan().buckets()[b].parameters)
        group.master(b).fill_(double(i + 1));
      group.start_gather(b);
    }
    ForwardGate gate(groups);
    read(parameters, group);
    gate.open();
    EXPECT_FALSE(group.is_gathering());
    for (std::size_t i = 0; i < parameters.size(); ++i)
      EXPECT_TRUE(at::equal(parameters[i], at::full({kNumel}, double(i + 1)))) << i;
  });
}

double mean_of(const at::Tensor& tensor) { return tensor.mean().item<double>(); }

TEST(ForwardGate, AnOperationWaitsForWhatItReads) {
  gathered_behind_gate([](const auto& p, const ShardedGroup& group) {
    EXPECT_EQ(mean_of(p[0] + 0), 1);
    EXPECT_TRUE(group.is_gathering());
    EXPECT_EQ(mean_of(p[1].view({2, -1})), 2);        // through a view
    EXPECT_EQ(mean_of(at::cat({p[2].detach()})), 3);  // in a list
    EXPECT_TRUE(group.is_gathering());
    EXPECT_EQ(mean_of(p[3].to(at::kDouble)), 4);
    EXPECT_FALSE(group.is_gathering());
  });
}

TEST(ForwardGate, KernelsOfOurOwnSayWhatTheyRead) {
  gathered_behind_gate([](const auto& p, const ShardedGroup& group) {
    const at::Tensor x = at::ones({1, 3, kNumel});
    const at::Tensor y = models::nn::fused_rms_norm(x, p[2], 0);
    EXPECT_EQ(mean_of(y), 3);
    EXPECT_TRUE(group.is_gathering());
  });
}

TEST(ForwardGate, NothingReadIsWaitedForInTheEnd) {
  gathered_behind_gate([](const auto&, const ShardedGroup& group) {
    EXPECT_EQ(mean_of(at::ones({7})), 1);
    EXPECT_TRUE(group.is_gathering());
  });
}

TEST(ForwardGate, AGatherThatFailsIsThrownByOpen) {
  EXPECT_THROW(dist::simulate(2,
                              [](const dist::Communicator& world) {
                                const auto collectives = dist::make_collectives(world);
                                const FusedAdamW optimizer{AdamWOptions{}};
                                const at::Tensor p = at::zeros({kNumel});
                                std::deque<ShardedGroup> groups;
                                groups.emplace_back(std::make_unique<dist::FlatGroup>(
                                                        "g", std::vector<dist::NamedLeaf>{{"p", p}},
                                                        dist::BucketOptions{.ranks = 2}),
                                                    optimizer, *collectives, ShardedGroupOptions{});
                                if (world.rank() == 1) return;  // the other waits for it in vain
                                groups.front().start_gather(0);
                                ForwardGate gate(groups);
                                EXPECT_NO_THROW(p + 1);
                                gate.open();
                              }),
               Error);
}

}  // namespace
}  // namespace trestle::trainers
