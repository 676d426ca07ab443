// The arithmetic of the predicted step, on transfers whose costs are plain numbers.
#include "trainers/step_prediction.h"

#include <gtest/gtest.h>

namespace trestle::trainers {
namespace {

using When = Transfer::When;

/// Two ranks; `buckets` equal ones, each reduced (`reductions` times) and gathered.
Plan plan_of(std::size_t buckets, std::int64_t micro_steps = 1, std::int64_t reductions = 1) {
  Plan plan{.ranks = dist::Topology(hosts_of_ranks(2)),
            .micro_steps = micro_steps,
            .reduces_every_micro_step = reductions > 1};
  const auto transfer = [&](When when, std::string_view operation, std::size_t bucket) {
    return Transfer{.when = when,
                    .operation = operation,
                    .bytes = 1000,
                    .times = when == When::reduction ? reductions : 1,
                    .begin = double(bucket) / double(buckets),
                    .end = double(bucket + 1) / double(buckets)};
  };
  for (std::size_t b = 0; b < buckets; ++b)
    plan.transfers.push_back(transfer(When::reduction, "reduce_scatter", b));
  for (std::size_t b = buckets; b-- > 0;)
    plan.transfers.push_back(transfer(When::gather, "all_gather", b));
  return plan;
}

/// Seconds a bucket.
formats::Calibration costs(double reduce_s, double gather_s) {
  formats::Calibration calibration{.world = 2};
  calibration.operations["reduce_scatter"] = {
      {.latency_s = reduce_s / 2, .bytes_per_s = 2000 / reduce_s}};
  calibration.operations["all_gather"] = {
      {.latency_s = gather_s / 2, .bytes_per_s = 2000 / gather_s}};
  return calibration;
}

constexpr ComputeTimes kCompute{.forward_s = 1, .backward_s = 2, .optimizer_s = 0.5};

TEST(StepPrediction, OneBucketHidesNothing) {
  const auto p = predict(plan_of(1), kCompute, costs(0.3, 0.2));
  EXPECT_DOUBLE_EQ(p.reduce_s, 0.3);
  EXPECT_DOUBLE_EQ(p.gather_s, 0.2);
  EXPECT_DOUBLE_EQ(p.step_s, (2 + 0.3) + 0.5 + (0.2 + 1));
  EXPECT_FALSE(p.slow_step_s);
}

TEST(StepPrediction, ManyBucketsHideAllButTheLastReductionAndTheFirstGather) {
  // Each reduction takes as long as half of its bucket's backward.
  const auto p = predict(plan_of(10), {.forward_s = 1, .backward_s = 2}, costs(0.1, 0.05));
  EXPECT_NEAR(p.step_s, (2 + 0.1) + (0.05 + 1), 1e-12);
  EXPECT_NEAR(p.reduce_s, 1, 1e-12);
}

TEST(StepPrediction, SlowLinksDecide) {
  const auto p = predict(plan_of(10), {.forward_s = 1, .backward_s = 2}, costs(0.4, 0.3));
  // The first bucket's gradients are there after a tenth of backward; then the link is never idle.
  // Forward computes the last bucket's tenth after all has come.
  EXPECT_NEAR(p.step_s, (0.2 + 10 * 0.4) + (10 * 0.3 + 0.1), 1e-12);
}

TEST(StepPrediction, OnlyTheLastMicroStepReducesUnlessAllDo) {
  const ComputeTimes compute{.forward_s = 4, .backward_s = 8};
  const auto last = predict(plan_of(10, 4), compute, costs(0.4, 0.05));
  // Of four forwards of 1 s and backwards of 2 s: the first bucket of the last backward is there
  // after 3 x (2 + 1) + 0.2 s.
  EXPECT_NEAR(last.step_s, (9 + 0.2 + 4) + (0.05 + 1), 1e-12);
  const auto all = predict(plan_of(10, 4, 4), compute, costs(0.4, 0.05));
  // The link is busy from the first bucket on: 40 reductions.
  EXPECT_NEAR(all.step_s, (0.2 + 40 * 0.4) + (0.05 + 1), 1e-12);
  EXPECT_NEAR(all.reduce_s, 16, 1e-12);
}

TEST(StepPrediction, ComputingLosesSpeedWhileSomethingIsUnderWay) {
  auto calibration = costs(0.1, 0.05);
  calibration.computing_lost = 0.2;
  const auto p = predict(plan_of(10), {.forward_s = 1, .backward_s = 2}, calibration);
  // Backward with 1 s of reductions takes 2.2 s, forward with 0.5 s of gathers 1.1 s.
  EXPECT_NEAR(p.step_s, (2.2 + 0.1) + (0.05 + 1.1), 1e-12);
}

TEST(StepPrediction, TellsTheSlowModeApart) {
  auto calibration = costs(0.4, 0.3);
  calibration.operations["all_gather"].slow =
      formats::Calibration::Cost{.latency_s = 0.6, .bytes_per_s = 1e9};
  const auto p = predict(plan_of(10), {.forward_s = 1, .backward_s = 2}, calibration);
  EXPECT_NEAR(p.step_s, 7.3, 1e-9);
  ASSERT_TRUE(p.slow_step_s);
  EXPECT_NEAR(*p.slow_step_s, 10.3, 1e-4);
}

TEST(StepPrediction, ObjectivesFollowEachOther) {
  Plan plan = plan_of(10);
  Plan second = plan_of(10);
  for (Transfer& transfer : second.transfers) {
    transfer.objective = 1;
    plan.transfers.push_back(transfer);
  }
  plan.objectives = 2;
  const auto p = predict(plan, {.forward_s = 2, .backward_s = 4}, costs(0.1, 0.05));
  EXPECT_NEAR(p.step_s, 2 * ((2 + 0.1) + (0.05 + 1)), 1e-12);
}

TEST(StepPrediction, SaysWhatACalibrationLacks) {
  const Plan plan = plan_of(2);
  formats::Calibration calibration = costs(1, 1);
  EXPECT_EQ(why_no_prediction(plan, calibration), "");
  calibration.levels = 2;
  EXPECT_NE(why_no_prediction(plan, calibration).find("of collectives in two levels"),
            std::string::npos);
  calibration.world = 3;
  EXPECT_NE(why_no_prediction(plan, calibration).find("3 ranks, not 2"), std::string::npos);
  EXPECT_NE(why_no_prediction(plan, {.world = 2}).find("reduce_scatter"), std::string::npos);
}

}  // namespace
}  // namespace trestle::trainers
