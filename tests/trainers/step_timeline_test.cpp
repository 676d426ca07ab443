// A step taken apart: what overlaps, what is waited for, and that the parts add up.
#include "trainers/step_timeline.h"

#include "dist/wait_time.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <thread>

namespace trestle::trainers {
namespace {

void work(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}
void wait(int milliseconds) {
  const dist::WaitTimer timer;
  work(milliseconds);
}

dist::OperationInfo bucket(std::string_view name, std::uint64_t sequence) {
  return {.channel = 1,
          .channel_name = "gradients",
          .members = {},
          .sequence = sequence,
          .kind = "reduce_scatter",
          .name = name,
          .bytes = 1000};
}

/// 20 ms of forward, 40 of backward whose second half a bucket travels, 20 more of waiting for it,
/// 10 of waiting for everyone's norm, 10 of optimizer.
void step(StepTimeline& timeline, std::int64_t index) {
  timeline.begin_step({index});
  timeline.enter(StepPhase::forward);
  work(20);
  timeline.enter(StepPhase::backward);
  work(20);
  const auto id = timeline.queued(bucket("g bucket 0", std::uint64_t(index)));
  timeline.started(id);
  work(20);
  timeline.enter(StepPhase::reduction);
  wait(20);
  timeline.finished(id);
  timeline.enter(StepPhase::norm);
  wait(10);
  timeline.enter(StepPhase::update);
  work(10);
  timeline.end_step();
}

TEST(StepTimeline, TakesAStepApart) {
  StepTimeline timeline;
  step(timeline, 6);  // before start(): not told
  timeline.start();
  step(timeline, 7);
  const auto parts = timeline.parts();
  ASSERT_EQ(parts.size(), 1u);
  const StepTimes& p = parts[0];
  EXPECT_NEAR(p.forward_s + p.backward_s + p.optimizer_s + p.data_wait_s + p.exposed_s + p.other_s,
              p.step_s, 1e-9);
  // Sleep is never shorter than asked for; a busy machine makes it longer.
  EXPECT_GE(p.forward_s, 0.020);
  EXPECT_GE(p.backward_s, 0.040);
  EXPECT_GE(p.optimizer_s, 0.010);
  EXPECT_GE(p.exposed_s, 0.030);
  EXPECT_LT(p.other_s, 0.005);
  EXPECT_GE(p.communication_s, 0.040);
  EXPECT_LT(p.communication_s, p.step_s - 0.030);
  // Hidden is what was under way while this rank computed: not the 20 ms of the reduction phase.
  EXPECT_GE(p.hidden_s, 0.020 - 1e-3);
  EXPECT_LT(p.hidden_s, p.communication_s - 0.015);
}

TEST(StepTimeline, WaitingInsideAPhaseIsExposedAndNotItsOwn) {
  StepTimeline timeline;
  timeline.begin_step({0});
  timeline.enter(StepPhase::forward);
  work(10);
  wait(30);
  timeline.end_step();
  const StepTimes p = timeline.parts()[0];
  EXPECT_GE(p.exposed_s, 0.030);
  EXPECT_LT(p.forward_s, p.step_s - 0.029);
}

TEST(StepTimeline, WritesAChromeTraceWithALaneForEachBucket) {
  StepTimeline timeline;
  timeline.start();
  step(timeline, 0);
  const auto trace = nlohmann::json::parse(chrome_trace(
      {timeline.chrome_events(0, "rank 0 (a)"), timeline.chrome_events(1, "rank 1 (b)")}));
  std::map<std::string, int> names;
  for (const auto& event : trace["traceEvents"]) {
    ++names[event["name"]];
    if (event["ph"] == "X") {
      EXPECT_GE(event["dur"].get<double>(), 0);
    }
    if (event["name"] == "reduce_scatter") {
      EXPECT_EQ(event["tid"], 1);
      EXPECT_EQ(event["args"]["bytes"], 1000);
    }
  }
  EXPECT_EQ(names["process_name"], 2);
  EXPECT_EQ(names["thread_name"], 4);  // of each rank its step and its bucket
  EXPECT_EQ(names["backward"], 2);
  EXPECT_EQ(names["optimizer"], 2);
  EXPECT_EQ(names["reduce_scatter"], 2);
}

}  // namespace
}  // namespace trestle::trainers
