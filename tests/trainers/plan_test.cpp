// What is planned against what an engine then holds and sends, over random models on simulated
// ranks; and the arithmetic of the predicted step. (Activations: tests/program/bench_step_test.py.)
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

TEST(StepPrediction, HidesReductionsBehindBackwardAndGathersBehindForward) {
  StepPrediction p{.compute = {.forward_s = 1, .backward_s = 2, .optimizer_s = 0.5},
                   .reduce_s = 1.5,
                   .gather_s = 0.25};
  EXPECT_DOUBLE_EQ(p.step_s(), 2 + 0.5 + 1);
  p.reduce_s = 3;
  p.gather_s = 4;
  EXPECT_DOUBLE_EQ(p.step_s(), 3 + 0.5 + 4);
  // Of four micro steps only the last backward and the first forward hide anything ...
  p.micro_steps = 4;
  EXPECT_DOUBLE_EQ(p.step_s(), (1.5 + 3) + 0.5 + (4 + 0.75));
  // ... unless each of them reduces.
  p.reduces_every_micro_step = true;
  EXPECT_DOUBLE_EQ(p.step_s(), 3 + 0.5 + (4 + 0.75));
}

TEST(StepPrediction, AddsUpTheCostsOfBuckets) {
  const Plan plan{.ranks = dist::Topology(hosts_of_ranks(2)),
                  .transfers = {{Transfer::When::reduction, "reduce_scatter", 1000, 3},
                                {Transfer::When::gather, "all_gather", 500}}};
  formats::Calibration calibration{.world = 2};
  EXPECT_NE(why_no_prediction(plan, calibration).find("reduce_scatter"), std::string::npos);
  calibration.operations["reduce_scatter"] = {{.latency_s = 0.5, .bytes_per_s = 1000}};
  calibration.operations["all_gather"] = {{.latency_s = 0.25, .bytes_per_s = 1000}};
  EXPECT_EQ(why_no_prediction(plan, calibration), "");
  const StepPrediction p = predict(plan, {}, calibration);
  EXPECT_DOUBLE_EQ(p.reduce_s, 3 * 1.5);
  EXPECT_DOUBLE_EQ(p.gather_s, 0.75);
  EXPECT_EQ(plan.sent_bytes(Transfer::When::reduction), 1500);
  EXPECT_FALSE(p.has_slow_mode);
  calibration.operations["all_gather"].slow =
      formats::Calibration::Cost{.latency_s = 1, .bytes_per_s = 500};
  const StepPrediction bimodal = predict(plan, {.forward_s = 0.1}, calibration);
  EXPECT_TRUE(bimodal.has_slow_mode);
  EXPECT_DOUBLE_EQ(bimodal.step_s(), 4.5 + 0.75);
  EXPECT_DOUBLE_EQ(bimodal.slow_step_s(), 4.5 + 2);
  calibration.levels = 2;
  EXPECT_NE(why_no_prediction(plan, calibration).find("of collectives in two levels"),
            std::string::npos);
  calibration.world = 3;
  EXPECT_NE(why_no_prediction(plan, calibration).find("3 ranks, not 2"), std::string::npos);
}

TEST(Plan, CountsWhatHostsSendToEachOther) {
  using When = Transfer::When;
  const std::vector<Transfer> transfers{{When::reduction, "reduce_scatter", 1200, 1},
                                        {When::gather, "all_reduce", 600}};
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
