// What is planned against what an engine then holds and sends, over random models on simulated
// ranks. (Activations: tests/program/bench_step_test.py.)
#include "trainers/plan.h"

#include "base/error.h"
#include "base/log.h"
#include "base/torch/tensor_memory.h"
#include "dist/operation_observer.h"
#include "dist/simulated.h"
#include "tests/trainers/random_task.h"
#include "trainers/check_recipe.h"
#include "trainers/engine.h"
#include "trainers/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

namespace trestle::trainers {
namespace {

using testing::RandomTask;
using testing::RandomTaskOptions;

configs::Recipe recipe(const std::vector<std::string>& sets) {
  constexpr std::string_view kText = R"(
[run]
task = "line_fit"
[train]
global_batch = 12
micro_batch = 2
[dist]
bucket_bytes = 3000
)";
  set_log_level(LogLevel::error);
  return configs::Recipe::from_text(kText, "test", sets);
}

/// Bytes of this rank's collectives on buckets, by kind.
class SentBytes : public dist::OperationObserver {
 public:
  std::uint64_t queued(const dist::OperationInfo& operation) override {
    const std::lock_guard lock(mutex_);
    if (operation.channel_name == "gradients" && !operation.name.empty())
      by_kind[std::string(operation.kind)] += operation.bytes;
    return 1;
  }
  void started(std::uint64_t) override {}
  void finished(std::uint64_t) override {}

  std::map<std::string, std::int64_t> by_kind;

 private:
  std::mutex mutex_;
};

struct Found {
  std::int64_t held_bytes = 0;
  std::map<std::string, std::int64_t> sent;
};

/// What rank 0 holds after three steps, and sends in the third.
Found train(const configs::Recipe& of, const RandomTaskOptions& model, int ranks) {
  Found found;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    RandomTask task(model);
    const auto collectives = dist::make_collectives(world, "gradients");
    const TensorMemory memory(at::kCPU, TensorMemory::Of::this_thread);
    Engine engine(task, *collectives, EngineOptions::of(of, task));
    const auto train = of.section<TrainOptions>("train");
    const data::Dataset& points = task.dataset(Split::train);
    const data::Sampler sampler(3, points.size());
    const data::BatchPlan plan(train.global_batch, train.micro_batch, world.rank(), world.size());
    const Draws draws(3);
    data::BadSamples bad(0);
    SentBytes sent;
    for (std::int64_t step = 0; step < 3; ++step) {
      engine.wait();
      if (step == 2) world.observe(&sent);
      const KindCounts kinds = count_kinds(points, sampler, plan.global_batch({step}));
      std::int64_t micro = 0;
      const auto next_batch = [&] {
        data::Batch batch;
        std::vector<data::SampleId> ids;
        const auto positions = plan.micro_batch({step}, micro++);
        for (const auto position : positions) ids.push_back(sampler.at(position));
        if (!ids.empty()) batch = points.load(ids);
        batch.positions = positions;
        return batch;
      };
      engine.step({.step = {step},
                   .draws = draws,
                   .kinds = kinds,
                   .micro_steps = plan.micro_steps(),
                   .next_batch = next_batch,
                   .bad_samples = bad});
    }
    engine.wait();
    world.observe(nullptr);
    if (world.rank() == 0) found = {memory.live_bytes(), sent.by_kind};
  });
  return found;
}

std::map<std::string, std::int64_t> transfers_of(const Plan& plan) {
  std::map<std::string, std::int64_t> bytes;
  for (const Transfer& transfer : plan.transfers)
    bytes[std::string(transfer.operation)] += transfer.times * transfer.bytes;
  return bytes;
}

TEST(Plan, SaysWhatAnEngineHoldsAndSends) {
  for (const char* shard : {"none", "optimizer", "gradients"}) {
    for (const char* wire : {"auto", "bf16"}) {
      for (unsigned seed = 1; seed <= 6; ++seed) {
        for (int ranks = 1; ranks <= 3; ++ranks) {
          const auto of =
              recipe({fmt::format("dist.shard={}", shard), fmt::format("dist.wire_dtype={}", wire),
                      fmt::format("ema.enabled={}", seed % 2 == 0)});
          const RandomTaskOptions model{.seed = seed};
          RandomTask task(model);
          const Plan plan = make_plan(of, task, hosts_of_ranks(ranks));
          const MemoryPlan& m = plan.memory;
          const Found found = train(of, model, ranks);
          const std::string where =
              fmt::format("{} {} seed {}, {} ranks", shard, wire, seed, ranks);
          const std::int64_t planned =
              m.parameters + m.masters + m.gradients + m.optimizer + m.ema + m.buckets;
          if (std::string_view(shard) == "gradients") {
            // These models' gradients come in any order, so more buckets are open at once; and
            // where few do, the pool is never as deep as planned.
            EXPECT_GE(double(found.held_bytes), 0.95 * double(planned)) << where;
            EXPECT_LE(double(found.held_bytes), 1.2 * double(planned)) << where;
          } else {
            EXPECT_EQ(found.held_bytes, planned) << where;
          }
          EXPECT_EQ(found.sent, transfers_of(plan)) << where;
        }
      }
    }
  }
}

TEST(Plan, CountsGroupsThatAreProjectedWhole) {
  const auto of = recipe({});
  const RandomTaskOptions model{.seed = 52, .lives = true};
  RandomTask task(model);
  const Plan plan = make_plan(of, task, hosts_of_ranks(3));
  const MemoryPlan& m = plan.memory;
  EXPECT_EQ(train(of, model, 3).held_bytes,
            m.parameters + m.masters + m.gradients + m.optimizer + m.ema + m.buckets);
}

TEST(Plan, SaysWhyActivationsAreNotKnown) {
  // Its loss picks samples by their values, which no tensor has on the meta device.
  const auto of = recipe({});
  const auto task = check_recipe(of, 2);
  const Plan plan = make_plan(of, *task, hosts_of_ranks(2));
  EXPECT_EQ(plan.memory.activations, 0);
  EXPECT_NE(plan.activation.unknown.find("the loss cannot be followed on the meta device"),
            std::string::npos)
      << plan.activation.unknown;
  EXPECT_EQ(plan.parameters, 4);
  EXPECT_EQ(plan.micro_steps, 3);
  EXPECT_EQ(plan.samples, 6);
}

TEST(Plan, CountsWhatHostsSendToEachOther) {
  using When = Transfer::When;
  const std::vector<Transfer> transfers{
      {.when = When::reduction, .operation = "reduce_scatter", .bytes = 1200},
      {.when = When::gather, .operation = "all_reduce", .bytes = 600}};
  const auto plan = [&](int ranks, int hosts, bool two_level) {
    return Plan{.ranks = dist::Topology(hosts_of_ranks(ranks, hosts)),
                .two_level = two_level,
                .transfers = transfers};
  };
  const Plan one_host = plan(4, 1, false);
  EXPECT_EQ(one_host.sent_bytes(When::reduction), 900);
  EXPECT_EQ(one_host.sent_bytes(When::gather), 900);
  EXPECT_EQ(one_host.sent_between_hosts_bytes(When::reduction), 0);
  const Plan one_level = plan(4, 2, false);
  EXPECT_EQ(one_level.sent_bytes(When::reduction), 900);
  EXPECT_EQ(one_level.sent_between_hosts_bytes(When::reduction), 1200);
  // Inside its host each rank passes one half on, and to its peer on the other host a quarter.
  const Plan two_level = plan(4, 2, true);
  EXPECT_EQ(two_level.sent_bytes(When::reduction), 900);
  EXPECT_EQ(two_level.sent_between_hosts_bytes(When::reduction), 600);
  EXPECT_EQ(two_level.sent_between_hosts_bytes(When::gather), 600);
  // Six ranks, three a host: 2/3 inside, 1/6 across.
  EXPECT_EQ(plan(6, 2, true).sent_bytes(When::reduction), 1000);
  // Uneven hosts: of 1 and 2 ranks.
  EXPECT_EQ(plan(3, 2, false).sent_between_hosts_bytes(When::reduction), 800);
}

TEST(Plan, KnowsWhenReductionsGoByHosts) {
  for (const auto& [wish, hosts, two_level] :
       {std::tuple("auto", 2, true), std::tuple("auto", 1, false), std::tuple("auto", 4, false),
        std::tuple("false", 2, false), std::tuple("true", 2, true)}) {
    const auto of = recipe({fmt::format("dist.two_level={}", wish)});
    const auto task = check_recipe(of, 4);
    const Plan plan = make_plan(of, *task, hosts_of_ranks(4, hosts));
    EXPECT_EQ(plan.two_level, two_level) << wish << ", " << hosts << " hosts";
    EXPECT_EQ(plan.ranks.hosts(), hosts);
  }
  const auto of = recipe({"dist.two_level=true"});
  const auto task = check_recipe(of, 4);
  EXPECT_THROW(make_plan(of, *task, hosts_of_ranks(4)), Error);
}

}  // namespace
}  // namespace trestle::trainers
