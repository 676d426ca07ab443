// The word that a mistyped one most likely meant.
#include "configs/nearest.h"

#include <gtest/gtest.h>

namespace trestle::configs {
namespace {

const std::vector<std::string> kKeys = {"learning_rate", "lr_scheduler", "lr_warmup_steps", "steps",
                                        "seed"};

TEST(NearestTest, EditsOfEveryKind) {
  EXPECT_EQ(nearest("learning_rte", kKeys), "learning_rate");    // left out
  EXPECT_EQ(nearest("learning_ratte", kKeys), "learning_rate");  // put in
  EXPECT_EQ(nearest("learning_rade", kKeys), "learning_rate");   // another letter
  EXPECT_EQ(nearest("setps", kKeys), "steps");                   // neighbours swapped
  EXPECT_EQ(nearest("lr_schedule", kKeys), "lr_scheduler");
}

TEST(NearestTest, ASwapCountsOnce) {
  // Five letters tolerate one edit; a swap as two replacements would be out of reach.
  EXPECT_EQ(nearest("setps", {"steps"}), "steps");
  EXPECT_EQ(nearest("setsp", {"steps"}), "");
}

TEST(NearestTest, CaseAndHyphensDoNotCount) {
  EXPECT_EQ(nearest("LR-Scheduler", kKeys), "lr_scheduler");
  EXPECT_EQ(nearest("SEED", kKeys), "seed");
  EXPECT_EQ(nearest("a-b-c", {"axb_c", "a_b_c"}), "a_b_c");
}

TEST(NearestTest, TheNearestWins) {
  EXPECT_EQ(nearest("abcdef", {"abcxyf", "abcdeg", "abcdxx"}), "abcdeg");
  EXPECT_EQ(nearest("abcdeh", {"abcdef", "abcdeg"}), "abcdef");  // the first of equals
}

TEST(NearestTest, APartOfAWordFindsTheWhole) {
  EXPECT_EQ(nearest("warmup", kKeys), "lr_warmup_steps");
  EXPECT_EQ(nearest("optimizer", {"train", "optim"}), "optim");
}

TEST(NearestTest, NothingNearGivesNothing) {
  EXPECT_EQ(nearest("zzzz", kKeys), "");
  EXPECT_EQ(nearest("seed", std::vector<std::string>{}), "");
  EXPECT_EQ(nearest("", kKeys), "");
}

}  // namespace
}  // namespace trestle::configs
