// What two resolved recipes say differently.
#include "configs/differences.h"

#include "configs/recipe.h"
#include "tests/configs/fixtures.h"

namespace trestle::configs {
namespace {

using Strings = std::vector<std::string>;

Schema schema() {
  Schema schema = train_and_optim();
  schema.section<AverageOptions>("ema");
  schema.section<OutputOptions>("log");
  return schema;
}

std::string resolved(const Strings& sets) {
  return Recipe::from_text("", "r", sets).resolved_toml(schema());
}

/// "name: before -> now", with a star where it may change.
Strings texts(const std::string& before, const std::string& now) {
  Strings lines;
  for (const RecipeDifference& d : differences(before, now, schema())) {
    lines.push_back(d.name + ": " + d.before + " -> " + d.now + (d.may_change ? " *" : ""));
  }
  return lines;
}

TEST(DifferencesTest, EqualRecipesHaveNone) {
  const Strings sets = {"train.prompts=[\"a\", \"b\"]", "train.seed=3", "ema.enabled=false"};
  EXPECT_EQ(texts(resolved(sets), resolved(sets)), Strings{});
}

TEST(DifferencesTest, NamesBothValuesAndWhetherTheyMayDiffer) {
  EXPECT_EQ(texts(resolved({"optim.learning_rate=2"}),
                  resolved({"train.seed=3", "log.format=lines", "optim.lr_scheduler=constant"})),
            (Strings{"train.seed: \"none\" -> 3", "optim.learning_rate: 2.0 -> 0.0001",
                     "optim.lr_scheduler: \"cosine\" -> \"constant\"",
                     "log.format: \"bar\" -> \"lines\" *"}));
}

TEST(DifferencesTest, ValuesCountNotTheirSpelling) {
  EXPECT_EQ(texts("[train]\ndropout = 0\nmilestones = [ 10,20 ]\n", "[train]\ndropout = 0.0\n"),
            Strings{});
}

TEST(DifferencesTest, WhatATextDoesNotSayIsItsDefault) {
  EXPECT_EQ(texts("", resolved({})), Strings{});
  EXPECT_EQ(texts("", resolved({"train.steps=5"})), Strings{"train.steps: 1000 -> 5"});
  // A resolved recipe leaves out what nothing reads.
  EXPECT_EQ(texts(resolved({"ema.decay=0.5"}), resolved({"ema.enabled=false"})),
            (Strings{"ema.enabled: true -> false", "ema.decay: 0.5 -> 0.9"}));
}

TEST(DifferencesTest, KeysOfAnOlderVersionAreListed) {
  EXPECT_EQ(texts("[train]\nsteps = 5\nold = 1\n[gone]\nkey = \"x\"\n",
                  "[train]\nsteps = 5\n[new]\nkey = 2\n"),
            (Strings{"train.old: 1 -> ", "gone.key: \"x\" -> ", "new.key:  -> 2"}));
  EXPECT_EQ(texts("[gone]\nkey = 1\n", "[gone]\nkey = 1\n"), Strings{});
  EXPECT_EQ(texts("[gone]\nkey = 1\n", "[gone]\nkey = 2\n"), Strings{"gone.key: 1 -> 2"});
}

TEST(DifferencesTest, AValueThatIsNoLongerAllowedIsShownAsItWas) {
  EXPECT_EQ(texts("[train]\nsteps = 0\nprecision = 8\n", resolved({})),
            (Strings{"train.steps: 0 -> 1000", "train.precision: 8 -> \"float32\""}));
}

TEST(DifferencesTest, WhatIsNoTomlIsAnError) {
  EXPECT_NE(error_of([] {
              differences("[train", "", schema());
            }).find("recipe of the run so far:1: this is not TOML"),
            std::string::npos);
}

}  // namespace
}  // namespace trestle::configs
