#include "dist/flight_ring.h"

#include "base/error.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <thread>

namespace trestle::dist {
namespace {

std::vector<nlohmann::json> lines_of(const FlightRing& ring) {
  std::vector<nlohmann::json> lines;
  ring.write_jsonl([&](std::string_view line) {
    EXPECT_TRUE(line.ends_with("}\n"));
    lines.push_back(nlohmann::json::parse(line));
  });
  return lines;
}

std::uint64_t queue(FlightRing& ring, std::uint64_t sequence, std::string_view name = "bucket",
                    std::uint32_t channel = 2) {
  const std::array members{0, 1, 2};
  return ring.queued({.channel = channel,
                      .channel_name = "gradients",
                      .members = members,
                      .sequence = sequence,
                      .kind = "all_reduce",
                      .name = name,
                      .bytes = 400});
}

TEST(FlightRing, EntersWhatHappensWithPhaseAndTimes) {
  FlightRing ring(10, 3);
  std::uint64_t id = 0;
  {
    const PhaseScope phase(&ring, Phase::step, 20);
    id = queue(ring, 5, "bucket \"7\"\n");
    const PhaseScope inner(&ring, Phase::checkpoint);
    queue(ring, 6);
  }
  queue(ring, 7);
  ring.started(id);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ring.finished(id);

  const auto lines = lines_of(ring);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["sequence"], 5);
  EXPECT_EQ(lines[0]["channel"], 2);
  EXPECT_EQ(lines[0]["channel_name"], "gradients");
  EXPECT_EQ(lines[0]["kind"], "all_reduce");
  EXPECT_EQ(lines[0]["name"], "bucket \"7\"\n");
  EXPECT_EQ(lines[0]["bytes"], 400);
  EXPECT_EQ(lines[0]["phase"], "step");
  EXPECT_EQ(lines[0]["step"], 20);
  const double queued = lines[0]["queued_s"], started = lines[0]["started_s"],
               finished = lines[0]["finished_s"];
  EXPECT_LE(queued, started);
  EXPECT_LT(started + 0.001, finished);
  EXPECT_EQ(lines[0]["queued_at"].get<std::string>().size(), sizeof "2026-01-02T03:04:05.678Z" - 1);
  EXPECT_EQ(lines[1]["phase"], "checkpoint");
  EXPECT_EQ(lines[1]["step"], 20) << "an inner phase keeps the step";
  EXPECT_TRUE(lines[1]["started_s"].is_null());
  EXPECT_TRUE(lines[1]["finished_s"].is_null());
  EXPECT_EQ(lines[2]["phase"], "idle");
}

TEST(FlightRing, KeepsTheLastAndAllThatAreNotFinished) {
  FlightRing ring(4, 3);
  const auto stuck = queue(ring, 0, "stuck", 9);
  for (std::uint64_t i = 1; i <= 10; ++i) ring.finished(queue(ring, i));
  auto lines = lines_of(ring);
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["name"], "stuck");
  for (int i = 1; i <= 4; ++i) EXPECT_EQ(lines[std::size_t(i)]["sequence"], 6 + i);
  ring.finished(stuck);
  EXPECT_EQ(lines_of(ring).size(), 4u);
}

TEST(FlightRing, TellsOfEachChannelWhatIsNearTheBorder) {
  FlightRing ring(100, 3);
  const PhaseScope phase(&ring, Phase::step, 3);
  for (std::uint64_t i = 0; i < 20; ++i) ring.finished(queue(ring, i, "done"));
  for (std::uint64_t i = 20; i < 40; ++i) queue(ring, i, "waiting");
  ring.finished(queue(ring, 0, "other", 7));
  const RankActivity activity = ring.activity(/*around=*/2);
  EXPECT_EQ(activity.phase, Phase::step);
  EXPECT_EQ(activity.step, 3);
  std::vector<std::int64_t> finished, unfinished;
  for (const auto& o : activity.operations) {
    EXPECT_TRUE(o.members.empty()) << "the whole world";
    if (o.channel == 2) (o.finished ? finished : unfinished).push_back(o.sequence);
  }
  EXPECT_EQ(finished, (std::vector<std::int64_t>{18, 19}));
  EXPECT_EQ(unfinished, (std::vector<std::int64_t>{20, 21}));
  EXPECT_EQ(activity.operations.size(), 5u);
}

TEST(FlightRing, NamesTheMembersOfASmallerGroup) {
  FlightRing ring(4, 4);
  queue(ring, 0);
  EXPECT_EQ(ring.activity().operations.at(0).members, (std::vector<int>{0, 1, 2}));
}

TEST(FlightRing, ActivitiesTravelAsBytes) {
  FlightRing ring(100, 4);
  const PhaseScope phase(&ring, Phase::evaluate, 12);
  ring.finished(queue(ring, 0));
  queue(ring, 1);
  const RankActivity activity = ring.activity();
  const std::string bytes = encode(activity);
  EXPECT_EQ(decode_activity(bytes), activity);
  for (const std::size_t cut : {std::size_t{0}, bytes.size() / 2, bytes.size() - 1})
    EXPECT_THROW(decode_activity(std::string_view(bytes).substr(0, cut)), Error);
}

TEST(FlightRing, QuietMeansThatNothingHappens) {
  FlightRing ring(4, 3);
  const auto before = ring.events();
  const auto id = queue(ring, 0);
  EXPECT_NE(ring.events(), before);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(ring.activity().quiet_s, 0.02);
  ring.finished(id);
  EXPECT_LT(ring.activity().quiet_s, 0.02);
}

TEST(FlightRing, ServesSeveralThreads) {
  FlightRing ring(50, 3);
  std::vector<std::jthread> threads;
  for (std::uint32_t channel = 0; channel < 4; ++channel) {
    threads.emplace_back([&ring, channel] {
      for (std::uint64_t i = 0; i < 500; ++i) {
        const auto id = queue(ring, i, "x", channel);
        ring.started(id);
        ring.activity();
        ring.finished(id);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(lines_of(ring).size(), 50u);
}

TEST(PhaseScope, ANullRingIsAllowed) { const PhaseScope phase(nullptr, Phase::step, 1); }

}  // namespace
}  // namespace trestle::dist
