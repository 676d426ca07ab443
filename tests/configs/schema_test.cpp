// The schema: what was described, and the reference page made of it.
#include "configs/schema.h"

#include "configs/differences.h"
#include "configs/recipe.h"
#include "tests/configs/fixtures.h"

#include <stdexcept>

namespace trestle::configs {
namespace {

const DescribedOption& option_of(const Schema& schema, const std::string& key) {
  const DescribedOption* option = schema.find("train", key);
  if (!option) throw std::out_of_range(key);
  return *option;
}

TEST(SchemaTest, DescriptionsAreKept) {
  const Schema schema = train_and_optim();
  EXPECT_EQ(schema.sections(), (std::vector<std::string>{"train", "optim"}));
  EXPECT_EQ(schema.options().size(), 12u);
  EXPECT_EQ(schema.options()[0].name(), "train.steps");
  EXPECT_EQ(schema.options()[9].name(), "optim.learning_rate");
  const DescribedOption& precision = option_of(schema, "precision");
  EXPECT_EQ(precision.kind, OptionKind::string);
  EXPECT_EQ(precision.arity, Arity::one);
  EXPECT_EQ(precision.default_text, "\"float32\"");
  EXPECT_EQ(precision.choices, (std::vector<std::string>{"float32", "float64", "bfloat16"}));
  const DescribedOption& dropout = option_of(schema, "dropout");
  EXPECT_EQ(dropout.min, std::optional<double>(0));
  EXPECT_EQ(dropout.below, std::optional<double>(1));
  EXPECT_FALSE(dropout.max);
  EXPECT_FALSE(dropout.above);
  EXPECT_FALSE(schema.find("train", "learning_rate"));
  EXPECT_FALSE(schema.has_section("run"));
}

TEST(SchemaTest, TypesReadAsWords) {
  const Schema schema = train_and_optim();
  const auto type = [&](const std::string& key) { return option_of(schema, key).type(); };
  EXPECT_EQ(type("steps"), "integer");
  EXPECT_EQ(type("shuffle"), "boolean");
  EXPECT_EQ(type("dropout"), "number");
  EXPECT_EQ(type("precision"), "string");
  EXPECT_EQ(type("milestones"), "list of integers");
  EXPECT_EQ(type("prompts"), "list of strings");
  EXPECT_EQ(type("max_grad_norm"), "number or none");
  EXPECT_EQ(type("seed"), "integer or none");
  EXPECT_EQ(type("resume"), "string or none");
  EXPECT_EQ(option_of(schema, "seed").range(), ">= 0 and <= 4294967295");
  EXPECT_EQ(option_of(schema, "max_grad_norm").range(), "> 0");
  EXPECT_EQ(option_of(schema, "shuffle").range(), "");
}

TEST(SchemaTest, DefaultsAreTextsThatARecipeCanSay) {
  const Schema schema = train_and_optim();
  for (const DescribedOption& option : schema.options()) {
    const std::vector<std::string> sets = {option.name() + "=" + option.default_text};
    EXPECT_NO_THROW(Recipe::from_text("", "r", sets).check(schema)) << sets[0];
  }
  EXPECT_EQ(option_of(schema, "seed").default_text, "\"none\"");
  EXPECT_EQ(option_of(schema, "max_grad_norm").default_text, "1.0");
  EXPECT_EQ(option_of(schema, "prompts").default_text, "[]");
}

struct MoreTrainOptions {
  int64_t micro_batch = 4;
  void describe(Fields& f) { f.field("micro_batch", micro_batch, {.help = "samples at once"}); }
};

TEST(SchemaTest, StructsMayShareASectionWhichStaysInOnePiece) {
  Schema schema = train_and_optim();
  schema.section<MoreTrainOptions>("train");
  EXPECT_EQ(schema.sections(), (std::vector<std::string>{"train", "optim"}));
  EXPECT_EQ(schema.options()[9].name(), "train.micro_batch");
  EXPECT_EQ(schema.options()[10].name(), "optim.learning_rate");
  Recipe::from_text("[train]\nmicro_batch = 2\nsteps = 3\n", "r").check(schema);
}

template <class Options>
void expect_bug(const std::string& part) {
  Schema schema;
  try {
    schema.section<Options>("s");
    ADD_FAILURE() << "accepted";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

struct Twice {
  int64_t a = 0;
  void describe(Fields& f) {
    f.field("a", a, {.help = "once"});
    f.field("a", a, {.help = "again"});
  }
};
struct Silent {
  int64_t a = 0;
  void describe(Fields& f) { f.field("a", a, {}); }
};
struct OutsideItself {
  int64_t a = 0;
  void describe(Fields& f) { f.field("a", a, {.help = "positive", .min = 1}); }
};
struct NumberOfChoice {
  int64_t a = 0;
  void describe(Fields& f) { f.field("a", a, {.help = "one of", .choices = {"0", "1"}}); }
};

TEST(SchemaTest, ABadDescriptionIsABug) {
  expect_bug<Twice>("s.a is described once");
  expect_bug<Silent>("s.a has a help text");
  expect_bug<OutsideItself>("the default of s.a = 0 is out of range");
  expect_bug<NumberOfChoice>("only strings have choices");
}

struct AutoOrFlag {
  std::string levels = "auto";
  void describe(Fields& f) {
    f.field("levels", levels, {.help = "how many", .choices = {"auto", "true", "false"}});
  }
};

TEST(SchemaTest, ChoicesThatAreWordsOfTomlNeedNoQuotes) {
  const auto said = [](const std::string& value) {
    Schema schema;
    schema.section<AutoOrFlag>("s");
    const Recipe recipe = Recipe::from_text("[s]\nlevels = " + value + "\n", "r");
    recipe.check(schema);
    return recipe.section<AutoOrFlag>("s").levels;
  };
  EXPECT_EQ(said("true"), "true");
  EXPECT_EQ(said("false"), "false");
  EXPECT_EQ(said("\"true\""), "true");
  EXPECT_EQ(said("\"auto\""), "auto");
  EXPECT_THROW(said("\"yes\""), Error);
  EXPECT_THROW(said("1"), Error);

  // To write it with or without quotes is no difference.
  Schema schema;
  schema.section<AutoOrFlag>("s");
  EXPECT_TRUE(differences("[s]\nlevels = true\n", "[s]\nlevels = \"true\"\n", schema).empty());
  EXPECT_EQ(differences("[s]\nlevels = true\n", "[s]\nlevels = false\n", schema).size(), 1u);
}

struct NeedsNothingKnown {
  bool a = true;
  void describe(Fields& f) { f.field("a", a, {.help = "lost", .needs = {"b", true}}); }
};
struct NeedsTheImpossible {
  std::string mode = "on";
  bool a = true;
  void describe(Fields& f) {
    f.field("mode", mode, {.help = "one of two", .choices = {"on", "off"}});
    f.field("a", a, {.help = "never read", .needs = {"mode", "sideways"}});
  }
};
struct NeedsInARow {
  bool a = true, b = true, c = true;
  void describe(Fields& f) {
    f.field("a", a, {.help = "first"});
    f.field("b", b, {.help = "second", .needs = {"a", true}});
    f.field("c", c, {.help = "third", .needs = {"b", true}});
  }
};

template <class Options>
void expect_bad_needs(const std::string& part) {
  Schema schema;
  schema.section<Options>("s");
  try {
    Recipe::from_text("[s]\na = true\n", "r").explain(schema);
    ADD_FAILURE() << "accepted";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(SchemaTest, NeedsThatNoRecipeCanMeetAreABug) {
  expect_bad_needs<NeedsNothingKnown>("s.a needs s.b, a free option");
  expect_bad_needs<NeedsTheImpossible>("s.a needs s.mode = \"sideways\", which may be");
  expect_bad_needs<NeedsInARow>("s.c needs s.b, a free option");
}

TEST(ReferenceTest, OneTableASection) {
  const std::string page =
      reference_markdown(std::vector<ReferenceChapter>{{"Every task", "Text.", train_and_optim()}});
  EXPECT_NE(
      page.find("\n## Every task\n\nText.\n\n### [train]\n\n"
                "| Key | Type | Default | Unit | Range | Resume | Meaning |\n"
                "|---|---|---|---|---|---|---|\n"
                "| `steps` | integer | `1000` | steps | >= 1 |  | optimizer steps of the run |\n"),
      std::string::npos)
      << page;
  EXPECT_NE(page.find("\n### [optim]\n"), std::string::npos);
  EXPECT_NE(page.find("| `lr_scheduler` | string | `\"cosine\"` |  | \"cosine\" or \"constant\" | "
                      " | shape after warm-up |\n"),
            std::string::npos);
  EXPECT_NE(page.find("texts \\| captions"), std::string::npos);  // a bar would end the cell
  EXPECT_LT(page.find("[train]"), page.find("[optim]"));
}

TEST(ReferenceTest, SaysWhatAKeyNeedsAndWhetherItMayChange) {
  Schema schema;
  schema.section<AverageOptions>("ema");
  schema.section<OutputOptions>("log");
  const std::string page =
      reference_markdown(std::vector<ReferenceChapter>{{"All", "Text.", schema}});
  EXPECT_NE(page.find("| `decay` | number | `0.9` |  |  |  | of the average (needs `ema.enabled = "
                      "true`) |\n"),
            std::string::npos)
      << page;
  EXPECT_NE(
      page.find("| >= 1 | may change | steps between lines (needs `log.format = \"lines\"`) |\n"),
      std::string::npos)
      << page;
}

TEST(ReferenceTest, EveryChapterHasItsOwnSections) {
  Schema other;
  other.section<OutputOptions>("log");
  const std::string page = reference_markdown(
      std::vector<ReferenceChapter>{{"One", "1.", train_and_optim()}, {"Two", "2.", other}});
  EXPECT_LT(page.find("### [optim]"), page.find("## Two\n\n2.\n\n### [log]"));
}

}  // namespace
}  // namespace trestle::configs
