// Which order a wish and a topology give, and what is said about a change of it. The trainer's own
// tests see it in runs.
#include "trainers/summation.h"

#include "base/error.h"

#include <gtest/gtest.h>

namespace trestle::trainers {
namespace {

Summation summation(const std::string& wish, std::string_view letters, int branches = 1,
                    int branch = 0) {
  std::vector<std::string> names;
  for (const char letter : letters) names.emplace_back(1, letter);
  return {wish, names, branches, branch};
}

TEST(Summation, FollowsTheWishWhereItCan) {
  EXPECT_TRUE(summation("auto", "aabb").two_level());
  EXPECT_TRUE(summation("true", "abba").two_level());
  EXPECT_FALSE(summation("false", "aabb").two_level());
  EXPECT_EQ(summation("auto", "aabb").to_text(), "in two levels, 2 hosts x 2 ranks");
  EXPECT_EQ(summation("false", "aabb").to_text(), "in one level (dist.two_level = false)");
  EXPECT_EQ(summation("auto", "aaaa").to_text(), "in one level (all 4 ranks are on one host)");
  EXPECT_EQ(summation("auto", "aab").to_text(),
            "in one level (2 hosts do not hold equally many ranks)");
  EXPECT_EQ(summation("auto", "ab").to_text(), "in one level (every host holds one rank)");
  try {
    summation("true", "ab");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
    EXPECT_EQ(std::string(error.what()),
              "dist.two_level = true cannot be done here (every host holds one rank; two levels "
              "need two or more hosts that hold equally many ranks, at least two). Place the ranks "
              "so (srun --ntasks-per-node, mpirun --map-by ppr:N:node), or set dist.two_level = "
              "\"auto\".");
  }
}

TEST(Summation, IsThatOfABranch) {
  const Summation second = summation("auto", "aabbabab", 2, 1);
  EXPECT_EQ(second.two_level()->hosts_of_ranks(), (std::vector<int>{0, 1, 0, 1}));
  EXPECT_EQ(second.record().host_of_rank, (std::vector<int>{0, 0, 1, 1, 0, 1, 0, 1}));
  // The other branch's ranks are on one host: all go in one level.
  EXPECT_EQ(summation("auto", "aabbcccc", 2, 0).to_text(),
            "in one level (all 4 ranks are on one host)");
  EXPECT_EQ(summation("auto", "aabb", 2, 0).to_text(),
            "in one level (all 2 ranks are on one host)");
}

TEST(Summation, KnowsWhatChanged) {
  checkpoint::Manifest manifest;
  manifest.world = 4;
  // Before there was a topology there was one level.
  EXPECT_EQ(summation("auto", "aaaa").change_since(manifest), "");
  EXPECT_NE(summation("auto", "aabb").change_since(manifest), "");
  EXPECT_NE(summation("auto", "aaa").change_since(manifest), "");
  manifest.topology = summation("auto", "aabb").record();
  EXPECT_EQ(summation("true", "ccdd").change_since(manifest), "");
  EXPECT_NE(summation("auto", "abab").change_since(manifest), "");
  EXPECT_NE(summation("false", "aabb").change_since(manifest), "");
  EXPECT_EQ(summation("auto", "aaaa").change_since(manifest),
            "gradients are summed in another order from here on (2 hosts x 2 ranks in two levels "
            "before, 4 ranks in one level now): results differ from an uninterrupted run's by "
            "rounding (equal bits need the same ranks and topology)");
  // In one level the placement does not matter.
  manifest.topology = summation("false", "aabb").record();
  EXPECT_EQ(summation("auto", "abbb").change_since(manifest), "");
}

}  // namespace
}  // namespace trestle::trainers
