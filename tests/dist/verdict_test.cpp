// Tables of ranks in trouble, and what is said about them.
#include "dist/verdict.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace trestle::dist {
namespace {

using Life = RankView::Life;
const TimeLimits kLimits{.startup_s = 600, .step_s = 60, .checkpoint_s = 1800};

OperationState bucket(std::int64_t sequence, bool finished, double age_s) {
  return {.channel = 1,
          .channel_name = "gradients",
          .members = {},
          .sequence = sequence,
          .kind = "reduce_scatter",
          .name = fmt::format("bucket {}", sequence % 10),
          .bytes = 26'000'000,
          .phase = Phase::step,
          .step = 812,
          .finished = finished,
          .age_s = age_s,
          .finished_ago_s = finished ? age_s - 0.1 : 0};
}

RankView rank_at(std::int64_t sequence, bool waits, double quiet_s, std::string host = "n1") {
  RankView view;
  view.life = Life::alive;
  view.host = std::move(host);
  view.activity.phase = Phase::step;
  view.activity.step = 812;
  view.activity.quiet_s = quiet_s;
  view.activity.operations.push_back(bucket(sequence - 1, true, quiet_s + 1));
  if (waits) view.activity.operations.push_back(bucket(sequence, false, quiet_s));
  return view;
}

std::vector<RankView> all_wait(int ranks, std::int64_t sequence, double quiet_s) {
  std::vector<RankView> views;
  for (int rank = 0; rank < ranks; ++rank)
    views.push_back(rank_at(sequence, true, quiet_s, fmt::format("n{}", rank / 3)));
  return views;
}

TEST(Verdict, NothingWhileAllIsWell) {
  EXPECT_FALSE(judge(all_wait(4, 7, 59), kLimits));
  auto views = all_wait(4, 7, 0.1);
  views[2] = rank_at(5, true, 0.1);  // behind, on its way
  EXPECT_FALSE(judge(views, kLimits));
  views[3].life = Life::left;
  EXPECT_FALSE(judge(views, kLimits));
}

TEST(Verdict, NamesWhoNeverArrived) {
  for (const int ranks : {2, 3, 64}) {
    for (const int missing : {0, ranks / 2, ranks - 1}) {
      auto views = all_wait(ranks, 7, 61);
      const auto m = static_cast<std::size_t>(missing);
      views[m] = rank_at(7, false, 61.5, "n12");
      const auto verdict = judge(views, kLimits);
      ASSERT_TRUE(verdict);
      EXPECT_EQ(verdict->kind, VerdictKind::stalled);
      EXPECT_EQ(verdict->code, ExitCode::peer);
      EXPECT_EQ(verdict->rank, missing);
      EXPECT_EQ(verdict->host, "n12");
      EXPECT_EQ(verdict->step, 812);
      EXPECT_EQ(verdict->op, "gradients reduce_scatter \"bucket 7\" (26 MB)");
      const std::string wait =
          ranks == 2 ? "1 rank waits" : fmt::format("{} ranks wait", ranks - 1);
      EXPECT_EQ(verdict->sentence,
                fmt::format("step 812: rank {} (host n12) never arrived at gradients "
                            "reduce_scatter \"bucket 7\" (26 MB): last seen in phase step 62 s ago "
                            "after gradients reduce_scatter \"bucket 6\" (26 MB); {} since 61 s",
                            missing, wait));
    }
  }
}

TEST(Verdict, OneOverdueRankIsEnough) {
  auto views = all_wait(3, 7, 10);
  views[0].activity.quiet_s = 61;
  views[1] = rank_at(7, false, 20);
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 1);
}

TEST(Verdict, TheAgeOfATableCounts) {
  auto views = all_wait(2, 7, 50);
  views[1] = rank_at(7, false, 50);
  EXPECT_FALSE(judge(views, kLimits));
  for (auto& view : views) view.told_ago_s = 11;
  EXPECT_TRUE(judge(views, kLimits));
}

TEST(Verdict, SeveralNeverArrived) {
  auto views = all_wait(6, 7, 61);
  views[2] = rank_at(7, false, 61);
  views[4] = rank_at(7, false, 61);
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 2);
  EXPECT_NE(verdict->sentence.find("rank 2 (host n1) and 1 more (rank 4) never arrived"),
            std::string::npos)
      << verdict->sentence;
  EXPECT_NE(verdict->sentence.find("4 ranks wait"), std::string::npos) << verdict->sentence;
}

TEST(Verdict, WhoWaitsForAThirdIsNotToBlame) {
  // 0 and 1 wait for 2 on the gradients; 2 waits for 3 on another channel; 3 does nothing.
  auto views = all_wait(4, 7, 61);
  views[2] = rank_at(7, false, 61);
  OperationState other = bucket(0, false, 30);
  other.channel = 5;
  other.channel_name = "checkpoint";
  other.members = {2, 3};
  views[2].activity.operations.push_back(other);
  views[3] = rank_at(8, false, 61);  // it had done its part for 0 and 1
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 3) << verdict->sentence;
  EXPECT_NE(verdict->op.find("checkpoint"), std::string::npos);
}

TEST(Verdict, OnlyMembersAreMissed) {
  auto views = all_wait(4, 7, 61);
  for (auto& view : views) view.activity.operations[1].members = {1, 3};
  views[0] = rank_at(9, false, 1);
  views[2] = rank_at(9, false, 1);
  views[3] = rank_at(3, false, 61);
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 3) << verdict->sentence;
}

TEST(Verdict, RanksThatWaitForEachOtherOnTwoChannels) {
  for (const std::size_t odd : {0, 1, 2}) {
    auto views = all_wait(3, 7, 61);
    views[odd] = rank_at(7, false, 61);
    OperationState other = bucket(0, false, 61);
    other.channel = 5;
    other.channel_name = "control";
    views[odd].activity.operations.push_back(other);
    const auto verdict = judge(views, kLimits);
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->kind, VerdictKind::desync);
    EXPECT_EQ(verdict->rank, int(odd)) << verdict->sentence;
    EXPECT_EQ(verdict->op, "control reduce_scatter \"bucket 0\" (26 MB)");
    EXPECT_NE(verdict->sentence.find("and 1 more (rank " + std::to_string(odd == 2 ? 1 : 2) +
                                     ") in gradients reduce_scatter \"bucket 7\""),
              std::string::npos)
        << verdict->sentence;
  }
  // Two ranks: nobody is the majority, and the higher is named.
  auto views = all_wait(2, 7, 61);
  views[1].activity.operations[1].channel = 5;
  ASSERT_TRUE(judge(views, kLimits));
  EXPECT_EQ(judge(views, kLimits)->rank, 1);
}

TEST(Verdict, AMessageIsMissedFromItsSender) {
  auto views = all_wait(3, 7, 61);
  for (auto& view : views) view.activity.operations.resize(1);
  OperationState receive = bucket(4, false, 61);
  receive.kind = "recv";
  receive.peer = 0;
  views[2].activity.operations.push_back(receive);
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 0) << verdict->sentence;
}

TEST(Verdict, AllArrivedAndNothingEnds) {
  const auto verdict = judge(all_wait(4, 7, 61), kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->kind, VerdictKind::stalled);
  EXPECT_NE(verdict->sentence.find("every rank has arrived"), std::string::npos);
}

TEST(Verdict, ARankThatDoesNothingThoughNobodyWaits) {
  std::vector<RankView> views{rank_at(7, false, 1), rank_at(7, false, 61)};
  auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_NE(verdict->sentence.find("makes no progress"), std::string::npos);

  views.assign(1, {});
  views[0].life = Life::alive;
  views[0].activity.phase = Phase::start_up;
  views[0].activity.quiet_s = 601;
  verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict) << "also alone, before any operation";
  EXPECT_TRUE(verdict->sentence.starts_with("start-up: rank 0")) << verdict->sentence;
}

TEST(Verdict, EachPhaseHasItsPatience) {
  const auto trips = [](Phase phase, double quiet_s) {
    auto views = all_wait(2, 7, quiet_s);
    views[1] = rank_at(7, false, quiet_s);
    for (auto& view : views) view.activity.phase = phase;
    return judge(views, kLimits).has_value();
  };
  EXPECT_FALSE(trips(Phase::step, 59));
  EXPECT_TRUE(trips(Phase::step, 61));
  EXPECT_FALSE(trips(Phase::start_up, 599));
  EXPECT_TRUE(trips(Phase::start_up, 601));
  EXPECT_FALSE(trips(Phase::checkpoint, 1799));
  EXPECT_TRUE(trips(Phase::checkpoint, 1801));
  for (const Phase phase : {Phase::idle, Phase::pictures, Phase::evaluate})
    EXPECT_FALSE(trips(phase, 1e6));
}

TEST(Verdict, WhoWaitsForASaveHasItsPatience) {
  auto views = all_wait(3, 7, 400);
  views[1] = rank_at(7, false, 400);
  views[1].activity.phase = Phase::checkpoint;
  EXPECT_FALSE(judge(views, kLimits));
  views.push_back(rank_at(7, false, 400));  // waits for nothing
  EXPECT_EQ(judge(views, kLimits)->rank, 3);
  views.pop_back();
  views[1].activity.quiet_s = 1801;
  EXPECT_EQ(judge(views, kLimits)->rank, 1);
}

TEST(Verdict, ALostRankComesFirst) {
  for (const int lost : {0, 1, 2}) {
    auto views = all_wait(3, 7, 61);  // overdue as well
    auto& view = views[std::size_t(lost)] = rank_at(7, false, 0.4, "n9");
    view.life = Life::lost;
    const auto verdict = judge(views, kLimits);
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->kind, VerdictKind::died);
    EXPECT_EQ(verdict->rank, lost);
    EXPECT_EQ(verdict->host, "n9");
    EXPECT_TRUE(
        verdict->sentence.starts_with("step 812: rank " + std::to_string(lost) + " (host n9) died"))
        << verdict->sentence;
    EXPECT_NE(verdict->sentence.find("2 ranks wait for it at"), std::string::npos);
  }
}

TEST(Verdict, WhereADeadRankWasTheOthersKnowBetterThanItsLastTable) {
  auto views = all_wait(3, 7, 0.1);
  views[1] = rank_at(2, false, 0.4);
  views[1].life = Life::lost;
  views[1].activity.step = 809;
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->step, 812);
  EXPECT_EQ(verdict->op, "gradients reduce_scatter \"bucket 7\" (26 MB)");
  EXPECT_NE(verdict->sentence.find("after gradients reduce_scatter \"bucket 1\""),
            std::string::npos)
      << verdict->sentence;
}

TEST(Verdict, AWholeHostIsLost) {
  auto views = all_wait(9, 7, 0.1);
  for (const std::size_t rank : {3, 4, 5}) views[rank].life = Life::lost;
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 3);
  EXPECT_NE(verdict->sentence.find("and 2 more (ranks 4, 5) died"), std::string::npos)
      << verdict->sentence;
}

TEST(Verdict, WithoutRank0OnlyItAndOneselfAreKnown) {
  std::vector<RankView> views(4);
  views[0] = rank_at(7, true, 0.1, "n0");
  views[0].life = Life::lost;
  views[2] = rank_at(7, true, 0.1);
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 0);
}

TEST(Verdict, ASilentRank) {
  auto views = all_wait(3, 7, 20);
  views[1].life = Life::silent;
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->kind, VerdictKind::died);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_NE(verdict->sentence.find("silent"), std::string::npos);
}

TEST(Verdict, DifferentOperations) {
  for (const std::size_t odd : {0, 1, 2}) {
    auto views = all_wait(3, 7, 0.2);  // no need to wait for a time-out
    views[odd].activity.operations[1].kind = "all_gather";
    views[odd].activity.operations[1].name = "wrong";
    const auto verdict = judge(views, kLimits);
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->kind, VerdictKind::desync);
    EXPECT_EQ(verdict->rank, int(odd));
    EXPECT_EQ(verdict->op, "gradients all_gather \"wrong\" (26 MB)");
    EXPECT_NE(verdict->sentence.find("all_gather \"wrong\" (26 MB), rank " +
                                     std::to_string(odd == 0 ? 1 : 0) + " (host n0) and 1 more"),
              std::string::npos)
        << verdict->sentence;
    EXPECT_NE(verdict->sentence.find("reduce_scatter \"bucket 7\""), std::string::npos);
    EXPECT_NE(verdict->sentence.find("number 7 of channel gradients"), std::string::npos);
  }
}

TEST(Verdict, ATieWaitsForThoseWhoAreOnTheirWay) {
  auto views = all_wait(3, 7, 0.2);
  views[0].activity.operations[1].kind = "barrier";
  views[2] = rank_at(7, false, 0.2);
  EXPECT_FALSE(judge(views, kLimits)) << "is it 0 or 1?";
  views[1].failure = RankView::Failure{ExitCode::peer, "rank 1 expected 8 bytes, and 1 came."};
  EXPECT_FALSE(judge(views, kLimits)) << "a failure comes of it, and explains less";
  views[2] = rank_at(7, true, 0);
  ASSERT_TRUE(judge(views, kLimits));
  EXPECT_EQ(judge(views, kLimits)->rank, 0);
  views[2] = rank_at(7, false, 0.2);
  for (auto& view : views) view.told_ago_s = 6;
  ASSERT_TRUE(judge(views, kLimits)) << "it does not come";
  EXPECT_EQ(judge(views, kLimits)->kind, VerdictKind::desync);
}

TEST(Verdict, OfTwoDifferentTheHigherRankIsNamed) {
  auto views = all_wait(2, 7, 0.2);
  views[0].activity.operations[1].kind = "barrier";
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_NE(verdict->sentence.find("barrier"), std::string::npos);
  EXPECT_NE(verdict->sentence.find("reduce_scatter"), std::string::npos);
}

TEST(Verdict, TheFirstDifferenceCounts) {
  // Rank 1 slipped in a barrier as number 7; from there on everything is shifted.
  auto views = all_wait(3, 8, 0.2);
  for (const std::size_t rank : {0, 2}) {
    views[rank].activity.operations = {bucket(7, true, 2), bucket(8, false, 1)};
  }
  OperationState slipped = bucket(7, true, 2);
  slipped.kind = "barrier";
  OperationState shifted = bucket(8, false, 1);
  shifted.name = "bucket 7";
  views[1].activity.operations = {slipped, shifted};
  const auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->rank, 1);
  EXPECT_NE(verdict->op.find("barrier"), std::string::npos) << verdict->sentence;
}

TEST(Verdict, SizesOfTensorsMustAgreeAndThoseOfTextsNeedNot) {
  auto views = all_wait(3, 7, 0.2);
  views[1].activity.operations[1].bytes = 8;
  ASSERT_TRUE(judge(views, kLimits));
  EXPECT_EQ(judge(views, kLimits)->kind, VerdictKind::desync);
  for (auto& view : views) view.activity.operations[1].kind = "all_gather_bytes";
  EXPECT_FALSE(judge(views, kLimits));
}

TEST(Verdict, TwoGroupsOfOneSplitAreNotCompared) {
  auto views = all_wait(4, 7, 0.2);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    auto& operation = views[rank].activity.operations[1];
    operation.members = rank < 2 ? std::vector{0, 1} : std::vector{2, 3};
    operation.name = rank < 2 ? "left" : "right";
    views[rank].activity.operations[0].members = operation.members;
  }
  EXPECT_FALSE(judge(views, kLimits));
}

TEST(Verdict, ADesyncExplainsAFailureAndAFailureAStall) {
  auto views = all_wait(3, 7, 61);
  views[2] = rank_at(7, false, 61);
  views[2].failure = RankView::Failure{ExitCode::environment, "no memory."};
  auto verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->kind, VerdictKind::failed);
  EXPECT_EQ(verdict->code, ExitCode::environment);
  EXPECT_EQ(verdict->rank, 2);
  EXPECT_NE(verdict->sentence.find("rank 2 (host n1) failed: no memory."), std::string::npos)
      << verdict->sentence;

  views[1].activity.operations[1].kind = "barrier";
  verdict = judge(views, kLimits);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->kind, VerdictKind::desync);
  EXPECT_EQ(verdict->code, ExitCode::peer);
}

TEST(Verdict, AsJsonAndAsBytes) {
  const Verdict verdict{.kind = VerdictKind::desync,
                        .rank = 3,
                        .host = "n\"1\"",
                        .op = "gradients all_reduce \"b\" (3 bytes)",
                        .step = 5,
                        .sentence = "said\n\\"};
  EXPECT_EQ(decode_verdict(encode(verdict)), verdict);
  const auto json = nlohmann::json::parse(verdict_json(verdict));
  EXPECT_EQ(json["kind"], "desync");
  EXPECT_EQ(json["rank"], 3);
  EXPECT_EQ(json["host"], verdict.host);
  EXPECT_EQ(json["op"], verdict.op);
  EXPECT_EQ(json["step"], 5);
  EXPECT_EQ(json["code"], 7);
  EXPECT_EQ(json["sentence"], verdict.sentence);
}

}  // namespace
}  // namespace trestle::dist
