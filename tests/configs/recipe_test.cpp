// Loading, extends, --set, explain and the resolved recipe.
#include "configs/recipe.h"

#include "tests/configs/fixtures.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <random>

namespace trestle::configs {
namespace {

using Strings = std::vector<std::string>;

class RecipeTest : public RecipeFolder {};

TEST_F(RecipeTest, SectionTakesDefaultsWhereTheRecipeIsSilent) {
  const Recipe recipe = Recipe::load(write("a.toml", "[train]\nsteps = 7\n"));
  const auto train = recipe.section<TrainOptions>("train");
  EXPECT_EQ(train.steps, 7);
  EXPECT_TRUE(train.shuffle);
  EXPECT_EQ(train.dropout, 0.1);
  EXPECT_EQ(train.milestones, (std::vector<int64_t>{10, 20}));
  EXPECT_EQ(recipe.section<OptimOptions>("optim").learning_rate, 1e-4);
}

TEST_F(RecipeTest, EveryTypeIsRead) {
  const Recipe recipe = Recipe::load(write("a.toml", R"(
[train]
steps = 9
shuffle = false
dropout = 0.25
precision = "bfloat16"
milestones = [1, 2, 3]
prompts = ["a cat", "a \"dog\""]
max_grad_norm = 2.5
seed = 12
resume = "runs/x"
)"));
  const auto train = recipe.section<TrainOptions>("train");
  EXPECT_EQ(train.steps, 9);
  EXPECT_FALSE(train.shuffle);
  EXPECT_EQ(train.dropout, 0.25);
  EXPECT_EQ(train.precision, "bfloat16");
  EXPECT_EQ(train.milestones, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(train.prompts, (Strings{"a cat", "a \"dog\""}));
  EXPECT_EQ(train.max_grad_norm, std::optional<double>(2.5));
  EXPECT_EQ(train.seed, std::optional<int64_t>(12));
  EXPECT_EQ(train.resume, std::optional<std::string>("runs/x"));
}

TEST_F(RecipeTest, NoneEmptiesAnOptional) {
  const Recipe recipe =
      Recipe::from_text("[train]\nmax_grad_norm = \"none\"\nseed = 3\nresume = \"none\"\n", "r",
                        Strings{"train.seed=none"});
  const auto train = recipe.section<TrainOptions>("train");
  EXPECT_FALSE(train.max_grad_norm);
  EXPECT_FALSE(train.seed);
  EXPECT_FALSE(train.resume);
}

TEST_F(RecipeTest, NoneIsAnOrdinaryWordForAPlainString) {
  const Recipe recipe = Recipe::from_text("[train]\nprompts = [\"none\"]\n", "r");
  EXPECT_EQ(recipe.section<TrainOptions>("train").prompts, Strings{"none"});
}

TEST_F(RecipeTest, AnIntegerServesWhereANumberIsWanted) {
  const Recipe recipe = Recipe::from_text("[train]\ndropout = 0\nmax_grad_norm = 3\n", "r");
  EXPECT_EQ(recipe.section<TrainOptions>("train").dropout, 0.0);
  EXPECT_EQ(recipe.section<TrainOptions>("train").max_grad_norm, std::optional<double>(3.0));
}

TEST_F(RecipeTest, DottedKeysAndInlineTablesAreSectionsToo) {
  const Recipe recipe =
      Recipe::from_text("train.steps = 5\noptim = { learning_rate = 0.5 }\n", "r");
  recipe.check(train_and_optim());
  EXPECT_EQ(recipe.section<TrainOptions>("train").steps, 5);
  EXPECT_EQ(recipe.section<OptimOptions>("optim").learning_rate, 0.5);
}

TEST_F(RecipeTest, NestedTablesAreSectionsWithDots) {
  Schema schema = train_and_optim();
  schema.section<OptimOptions>("optim.discriminator");
  const Recipe recipe = Recipe::from_text(
      "[optim]\nlearning_rate = 0.5\n[optim.discriminator]\nlearning_rate = 0.25\n", "r",
      Strings{"optim.discriminator.lr_warmup_steps=4"});
  recipe.check(schema);
  EXPECT_EQ(recipe.section<OptimOptions>("optim").learning_rate, 0.5);
  EXPECT_EQ(recipe.section<OptimOptions>("optim").lr_warmup_steps, 0);
  EXPECT_EQ(recipe.section<OptimOptions>("optim.discriminator").learning_rate, 0.25);
  EXPECT_EQ(recipe.section<OptimOptions>("optim.discriminator").lr_warmup_steps, 4);
  // A section that only opens others need not be known itself.
  Schema only_inner;
  only_inner.section<OptimOptions>("optim.discriminator");
  Recipe::from_text("[optim.discriminator]\nlearning_rate = 1\n", "r").check(only_inner);
}

// --- extends ---------------------------------------------------------------------------------

TEST_F(RecipeTest, ChildWinsKeyByKeyOverAChain) {
  write("base/root.toml",
        "[train]\nsteps = 1\ndropout = 0.5\nshuffle = false\n[optim]\nlearning_rate = 0.125\n");
  write("base/middle.toml", "extends = \"root.toml\"\n[train]\nsteps = 2\ndropout = 0.25\n");
  const std::string child =
      write("child.toml", "extends = \"base/middle.toml\"\n\n[train]\nsteps = 3\n");
  const Recipe recipe = Recipe::load(child);
  const auto train = recipe.section<TrainOptions>("train");
  EXPECT_EQ(train.steps, 3);
  EXPECT_EQ(train.dropout, 0.25);
  EXPECT_FALSE(train.shuffle);
  EXPECT_EQ(recipe.section<OptimOptions>("optim").learning_rate, 0.125);
  EXPECT_EQ(recipe.name(), child);
  recipe.check(train_and_optim());  // extends itself is no unknown key
}

TEST_F(RecipeTest, ACircleOfExtendsIsNamed) {
  const std::string a = write("a.toml", "[train]\n");
  write("b.toml", "# comment\nextends = \"sub/../a.toml\"\n");
  write("a.toml", "extends = \"b.toml\"\n");
  EXPECT_EQ(error_of([&] { Recipe::load(a); }),
            path("b.toml") + ":2: extends = \"sub/../a.toml\" closes a circle (" + a + " -> " +
                path("b.toml") + " -> " + a + "). Take one of these lines out.");
}

TEST_F(RecipeTest, ACircleThroughALinkIsSeen) {
  const std::string a = write("a.toml", "extends = \"link.toml\"\n");
  std::filesystem::create_symlink("a.toml", path("link.toml"));
  EXPECT_EQ(error_of([&] { Recipe::load(a); }),
            a + ":1: extends = \"link.toml\" closes a circle (" + a + " -> " + path("link.toml") +
                "). Take one of these lines out.");
}

TEST_F(RecipeTest, ARecipeMayNotExtendItself) {
  const std::string a = write("a.toml", "extends = \"a.toml\"\n");
  EXPECT_NE(error_of([&] { Recipe::load(a); }).find("closes a circle"), std::string::npos);
}

TEST_F(RecipeTest, AMissingBaseIsToldAtTheLineThatNamesIt) {
  const std::string a = write("a.toml", "[train]\nsteps = 1\n");
  write("a.toml", "\nextends = \"nowhere.toml\"\n");
  EXPECT_EQ(error_of([&] { Recipe::load(a); }),
            a + ":2: recipe " + path("nowhere.toml") +
                " cannot be read (No such file or directory). Name an existing TOML file.");
}

TEST_F(RecipeTest, ExtendsIsAString) {
  const std::string a = write("a.toml", "extends = [\"b.toml\"]\n");
  EXPECT_EQ(error_of([&] { Recipe::load(a); }),
            a + ":1: extends = [\"b.toml\"] is not a string (it names one recipe to build on). "
                "Write extends = \"base.toml\".");
}

TEST_F(RecipeTest, ExtendsIsRefusedWhereThereIsNoFile) {
  EXPECT_EQ(
      error_of([] { Recipe::from_text("extends = \"b.toml\"", "saved"); }).rfind("saved:1: ", 0),
      0u);
  EXPECT_EQ(error_of([] {
              Recipe::from_text("", "saved", Strings{"extends=b.toml"});
            }).rfind("--set extends=b.toml: ", 0),
            0u);
}

// --- --set -----------------------------------------------------------------------------------

TEST_F(RecipeTest, SetWinsOverRecipesAndTheLastSetOverTheFirst) {
  write("base.toml", "[train]\nsteps = 1\n");
  const std::string child = write("child.toml", "extends = \"base.toml\"\n[train]\nsteps = 2\n");
  EXPECT_EQ(Recipe::load(child).section<TrainOptions>("train").steps, 2);
  EXPECT_EQ(Recipe::load(child, Strings{"train.steps=3", "train.steps=4"})
                .section<TrainOptions>("train")
                .steps,
            4);
}

TEST_F(RecipeTest, SetValuesAreToml) {
  const Recipe recipe = Recipe::from_text(
      "", "r",
      Strings{"train.shuffle=false", "train.dropout = 2.5e-1", "train.milestones=[3, 0x10]",
              "train.prompts=[\"a = b\", 'c']", "train.precision=\"float64\"", "train.seed=1_000"});
  const auto train = recipe.section<TrainOptions>("train");
  EXPECT_FALSE(train.shuffle);
  EXPECT_EQ(train.dropout, 0.25);
  EXPECT_EQ(train.milestones, (std::vector<int64_t>{3, 16}));
  EXPECT_EQ(train.prompts, (Strings{"a = b", "c"}));
  EXPECT_EQ(train.precision, "float64");
  EXPECT_EQ(train.seed, std::optional<int64_t>(1000));
}

TEST_F(RecipeTest, WhatIsNoTomlValueIsAString) {
  const auto resume = [](const std::string& text) {
    return Recipe::from_text("", "r", Strings{"train.resume=" + text})
        .section<TrainOptions>("train")
        .resume;
  };
  // A comment or a second value must not vanish from a word that only begins like a number.
  for (const char* word : {"runs/x", "a=b", "5#bar", "1, 2", "1, b = 2", "1,", "two words",
                           "C:\\x\\n", "\"open", "1 } \ny = { z = 1", ""}) {
    EXPECT_EQ(resume(word), std::optional<std::string>(word));
  }
  EXPECT_EQ(resume("  padded "), std::optional<std::string>("padded"));
}

TEST_F(RecipeTest, AMalformedSetIsAnError) {
  const auto set_error = [](const std::string& set) {
    return error_of([&] { Recipe::from_text("", "r", Strings{set}); });
  };
  EXPECT_EQ(set_error("train.steps"),
            "--set train.steps: there is no \"=\" (it separates key and value). Write --set "
            "section.key=value.");
  for (const char* set : {"=5", "train..steps=5", ".steps=5", "train.=5", "train steps=5"}) {
    EXPECT_NE(set_error(set).find(" is no key (words joined by dots make one)"), std::string::npos)
        << set;
  }
  EXPECT_NE(set_error("train.resume=\xff\xfe").find("not UTF-8"), std::string::npos);
}

// --- effective values ------------------------------------------------------------------------

TEST_F(RecipeTest, IsSetTellsWhatWasSaid) {
  const Recipe recipe =
      Recipe::from_text("[train]\nsteps = 1000\n", "r", Strings{"optim.learning_rate=1"});
  EXPECT_TRUE(recipe.is_set("train.steps"));  // though it repeats the default
  EXPECT_TRUE(recipe.is_set("optim.learning_rate"));
  EXPECT_FALSE(recipe.is_set("train.dropout"));
  EXPECT_FALSE(recipe.is_set("steps"));
}

TEST_F(RecipeTest, ExplainSaysWhereEachValueComesFrom) {
  const std::string base = write("base.toml", "[train]\n\nsteps = 5\ndropout = 0\n");
  const std::string child =
      write("child.toml", "extends = \"base.toml\"\n[train]\ndropout = 0.5\n");
  const Schema schema = train_and_optim();
  const std::vector<Explained> all =
      Recipe::load(child, Strings{"optim.learning_rate=1"}).explain(schema);
  ASSERT_EQ(all.size(), schema.options().size());
  const auto of = [&](const std::string& key) {
    for (const Explained& one : all) {
      if (one.key == key) return one;
    }
    ADD_FAILURE() << key << " is missing";
    return Explained{};
  };
  EXPECT_EQ(of("train.steps").source, base + ":3");
  EXPECT_EQ(of("train.steps").value, "5");
  EXPECT_EQ(of("train.steps").default_value, "1000");
  EXPECT_EQ(of("train.steps").unit, "steps");
  EXPECT_EQ(of("train.steps").range, ">= 1");
  EXPECT_EQ(of("train.steps").type, "integer");
  EXPECT_EQ(of("train.steps").help, "optimizer steps of the run");
  EXPECT_EQ(of("train.dropout").source, child + ":3");
  EXPECT_EQ(of("train.dropout").range, ">= 0 and < 1");
  EXPECT_EQ(of("optim.learning_rate").source, "--set");
  EXPECT_EQ(of("optim.learning_rate").value, "1.0");  // as the number that it becomes
  EXPECT_EQ(of("optim.learning_rate").default_value, "0.0001");
  EXPECT_EQ(of("train.seed").source, "default");
  EXPECT_EQ(of("train.seed").value, "\"none\"");
  EXPECT_EQ(of("optim.lr_scheduler").range, "\"cosine\" or \"constant\"");
}

TEST_F(RecipeTest, ResolvedRecipeSaysEverythingAndReadsBackTheSame) {
  const Schema schema = train_and_optim();
  const Recipe recipe = Recipe::from_text(
      "[train]\nprompts = [\"tab\\t quote\\\" slash\\\\ \\u0001\\u007f \\n line, \\u00e9\"]\nseed "
      "= 4\n",
      "r", Strings{"optim.learning_rate=3"});
  const std::string text = recipe.resolved_toml(schema);
  EXPECT_EQ(text, R"([train]
steps = 1000
shuffle = true
dropout = 0.1
precision = "float32"
milestones = [10, 20]
prompts = ["tab\t quote\" slash\\ \u0001\u007F \n line, é"]
max_grad_norm = 1.0
seed = 4
resume = "none"

[optim]
learning_rate = 3.0
lr_warmup_steps = 0
lr_scheduler = "cosine"
)");
  const Recipe again = Recipe::from_text(text, "saved");
  EXPECT_EQ(again.resolved_toml(schema), text);
  EXPECT_EQ(again.section<TrainOptions>("train").prompts,
            recipe.section<TrainOptions>("train").prompts);
  for (const DescribedOption& option : schema.options()) EXPECT_TRUE(again.is_set(option.name()));
}

TEST_F(RecipeTest, DoublesSurviveToTheLastBit) {
  struct Holder {
    double x = 0;
    void describe(Fields& f) { f.field("x", x, {.help = "any finite number"}); }
  };
  Schema schema;
  schema.section<Holder>("s");
  const auto through = [&](double value) {
    // In by a text of 17 digits, which is exact; out and in again by the resolved recipe.
    char text[64];
    std::snprintf(text, sizeof text, "s.x=%.17g", value);
    const Recipe first = Recipe::from_text("", "r", Strings{text});
    EXPECT_EQ(std::bit_cast<uint64_t>(first.section<Holder>("s").x), std::bit_cast<uint64_t>(value))
        << text;
    return Recipe::from_text(first.resolved_toml(schema), "saved").section<Holder>("s").x;
  };
  std::vector<double> values = {0.1,
                                1e-4,
                                1e22,
                                5e-324,
                                2.2250738585072014e-308,
                                1.7976931348623157e308,
                                -0.0001,
                                1.0 / 3,
                                1e16,
                                123456789012345680.0};
  std::mt19937_64 bits(7);
  while (values.size() < 2000) {
    const double value = std::bit_cast<double>(bits());
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    ASSERT_EQ(std::bit_cast<uint64_t>(through(value)), std::bit_cast<uint64_t>(value));
  }
  const Recipe negative_zero = Recipe::from_text("[s]\nx = -0.0\n", "r");
  const Recipe again = Recipe::from_text(negative_zero.resolved_toml(schema), "saved");
  EXPECT_TRUE(std::signbit(again.section<Holder>("s").x));
}

}  // namespace
}  // namespace trestle::configs
