// Keys that have an effect only beside another key's value.
#include "configs/recipe.h"
#include "tests/configs/fixtures.h"

namespace trestle::configs {
namespace {

using Strings = std::vector<std::string>;

Schema schema() {
  Schema schema;
  schema.section<AverageOptions>("ema");
  schema.section<OutputOptions>("log");
  return schema;
}

std::string check_error(const std::string& toml, const Strings& sets = {}) {
  return error_of([&] { Recipe::from_text(toml, "r.toml", sets).check(schema()); });
}

void expect_fine(const std::string& toml, const Strings& sets = {}) {
  EXPECT_NO_THROW(Recipe::from_text(toml, "r.toml", sets).check(schema())) << toml;
}

class NeedsTest : public RecipeFolder {};

TEST_F(NeedsTest, AKeyThatNothingReadsIsRefusedAtItsLine) {
  EXPECT_EQ(check_error("[ema]\nenabled = false\ndecay = 0.5\n"),
            "r.toml:3: ema.decay = 0.5 has no effect (ema.enabled = false, and decay is read only "
            "when it is true). Remove the key, or set ema.enabled = true.");
  EXPECT_EQ(check_error("[log]\nevery = 5\n"),  // the default of log.format is not "lines"
            "r.toml:2: log.every = 5 has no effect (log.format = \"bar\", and every is read only "
            "when it is \"lines\"). Remove the key, or set log.format = \"lines\".");
}

TEST_F(NeedsTest, RepeatingTheDefaultIsSettingToo) {
  EXPECT_NE(check_error("[ema]\nenabled = false\ndecay = 0.9\n").find("has no effect"),
            std::string::npos);
}

TEST_F(NeedsTest, AKeyThatIsReadPasses) {
  expect_fine("[ema]\ndecay = 0.5\n");
  expect_fine("[ema]\nenabled = true\ndecay = 0.5\n");
  expect_fine("[ema]\nenabled = false\n");
  expect_fine("[log]\nevery = 5\nformat = \"lines\"\n");
  expect_fine("[log]\nevery = 5\n", {"log.format=lines"});
}

TEST_F(NeedsTest, SetsAndBasesCountUnderTheirOwnNames) {
  EXPECT_EQ(check_error("[ema]\nenabled = false\n", {"ema.decay=0.5"}),
            "--set ema.decay=0.5: ema.decay = 0.5 has no effect (ema.enabled = false, and decay is "
            "read only when it is true). Remove the key, or set ema.enabled = true.");
  const std::string base = write("base.toml", "[ema]\n\ndecay = 0.5\n");
  const std::string child =
      write("child.toml", "extends = \"base.toml\"\n[ema]\nenabled = false\n");
  // A base that switches the part off itself, or a child that sets the key again, is a mistake ...
  const std::string wrong = write("wrong.toml", "[ema]\n\ndecay = 0.5\nenabled = false\n");
  const std::string on_wrong = write("on_wrong.toml", "extends = \"wrong.toml\"\n");
  EXPECT_EQ(
      error_of([&] { Recipe::load(on_wrong).check(schema()); }).rfind(wrong + ":3: ema.decay", 0),
      0u);
  EXPECT_NE(error_of([&] { Recipe::load(child, Strings{"ema.decay=0.7"}).check(schema()); }), "");
  // ... but switching off what a base set is the point of building on it.
  EXPECT_NO_THROW(Recipe::load(child).check(schema()));
  EXPECT_NO_THROW(Recipe::load(base, Strings{"ema.enabled=false"}).check(schema()));
}

TEST_F(NeedsTest, AnIllTypedValueIsToldAlone) {
  EXPECT_EQ(check_error("[ema]\nenabled = 0\ndecay = 0.5\n"),
            "r.toml:2: ema.enabled = 0 is an integer (wanted: true or false).");
  EXPECT_EQ(check_error("[ema]\nenabled = false\ndecay = \"x\"\n"),
            "r.toml:3: ema.decay = \"x\" is a string (wanted: a number).");
}

TEST_F(NeedsTest, ExplainSaysWhatAKeyNeedsAndWhetherThatIsSo) {
  const auto all = Recipe::from_text("[ema]\nenabled = false\n", "r").explain(schema());
  EXPECT_EQ(all[0].needs, "");
  EXPECT_TRUE(all[0].has_effect);
  EXPECT_FALSE(all[0].may_change);
  EXPECT_EQ(all[1].needs, "ema.enabled = true");
  EXPECT_FALSE(all[1].has_effect);
  EXPECT_EQ(all[3].needs, "log.format = \"lines\"");
  EXPECT_TRUE(all[3].may_change);
  EXPECT_TRUE(Recipe::from_text("", "r").explain(schema())[1].has_effect);
}

TEST_F(NeedsTest, AResolvedRecipeIsNeverRefused) {
  const std::string text =
      Recipe::from_text("[ema]\nenabled = false\n", "r").resolved_toml(schema());
  EXPECT_EQ(text,
            "[ema]\nenabled = false\n# decay = 0.9 (needs ema.enabled = true)\n\n"
            "[log]\nformat = \"bar\"\n# every = 10 (needs log.format = \"lines\")\n");
  const Recipe again = Recipe::from_text(text, "saved");
  EXPECT_EQ(again.resolved_toml(schema()), text);
  EXPECT_EQ(Recipe::from_text(text, "saved", Strings{"ema.enabled=true"})
                .section<AverageOptions>("ema")
                .decay,
            0.9);
}

}  // namespace
}  // namespace trestle::configs
