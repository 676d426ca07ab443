// [optim.head] over [optim]: a section that says again, for a part, what another says for all.
#include "configs/differences.h"
#include "configs/recipe.h"
#include "configs/schema.h"

#include <gtest/gtest.h>

namespace trestle::configs {
namespace {

struct RateOptions {
  double rate = 0.1;
  int64_t warmup = 5;
  void describe(Fields& f) {
    f.field("rate", rate, {.help = "how fast", .above = 0});
    f.field("warmup", warmup, {.help = "how long", .min = 0});
  }
};

Schema schema() {
  Schema schema;
  schema.overlay<RateOptions>("optim.head", "optim");  // the order of description does not matter
  schema.section<RateOptions>("optim");
  return schema;
}

RateOptions head(const Recipe& recipe) {
  return recipe.overlay<RateOptions>("optim.head", "optim");
}

TEST(Overlay, WhatIsNotSaidIsAsBelow) {
  const auto recipe =
      Recipe::from_text("[optim]\nrate = 0.5\nwarmup = 7\n[optim.head]\nrate = 2.0\n", "r");
  EXPECT_NO_THROW(recipe.check(schema()));
  EXPECT_EQ(head(recipe).rate, 2.0);
  EXPECT_EQ(head(recipe).warmup, 7);
  EXPECT_EQ(recipe.section<RateOptions>("optim").rate, 0.5);
  EXPECT_EQ(head(Recipe::from_text("", "r")).rate, 0.1);
}

TEST(Overlay, IsExplainedWithItsEffectiveValue) {
  const auto recipe = Recipe::from_text("[optim]\nrate = 0.5\n", "r");
  for (const Explained& e : recipe.explain(schema())) {
    if (e.key != "optim.head.rate") continue;
    EXPECT_EQ(e.value, "0.5");
    EXPECT_EQ(e.default_value, "as optim.rate");
    return;
  }
  FAIL() << "optim.head.rate is not explained";
}

TEST(Overlay, ResolvedSaysItInFull) {
  const auto recipe = Recipe::from_text("[optim]\nrate = 0.5\n", "r");
  const std::string resolved = recipe.resolved_toml(schema());
  EXPECT_NE(resolved.find("[optim.head]\nrate = 0.5\nwarmup = 5\n"), std::string::npos) << resolved;
  const auto again = Recipe::from_text(resolved, "resolved");
  EXPECT_EQ(again.resolved_toml(schema()), resolved);
  EXPECT_EQ(head(again).rate, 0.5);
}

TEST(Overlay, WrongKeysAndValuesNameTheSection) {
  const auto error = [](const std::string& toml) -> std::string {
    try {
      Recipe::from_text(toml, "r.toml").check(schema());
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error("[optim.head]\nrat = 1.0\n").find("optim.head.rat"), std::string::npos);
  EXPECT_NE(error("[optim.head]\nrate = -1.0\n").find("optim.head.rate"), std::string::npos);
  EXPECT_NE(error("[optim.heat]\nrate = 1.0\n").find("did you mean [optim.head]?"),
            std::string::npos);
}

TEST(Overlay, DifferencesCompareEffectiveValues) {
  const auto resolved = [](const std::string& toml) {
    return Recipe::from_text(toml, "r").resolved_toml(schema());
  };
  // A run of before the section existed.
  EXPECT_TRUE(
      differences("[optim]\nrate = 0.5\nwarmup = 5\n", resolved("[optim]\nrate = 0.5\n"), schema())
          .empty());
  EXPECT_EQ(differences(resolved(""), resolved("[optim.head]\nrate = 3.0\n"), schema()).size(), 1u);
}

}  // namespace
}  // namespace trestle::configs
