// What a user reads who made a mistake in a recipe or on the command line.
#include "configs/recipe.h"
#include "tests/configs/fixtures.h"

namespace trestle::configs {
namespace {

using Strings = std::vector<std::string>;

std::string check_error(const std::string& toml, const Strings& sets = {}) {
  return error_of([&] { Recipe::from_text(toml, "r.toml", sets).check(train_and_optim()); });
}

class RecipeErrorsTest : public RecipeFolder {};

TEST_F(RecipeErrorsTest, AGoodRecipePasses) {
  EXPECT_NO_THROW(
      Recipe::from_text("[train]\nsteps = 1\n[optim]\n", "r.toml", Strings{"optim.learning_rate=0"})
          .check(train_and_optim()));
}

// --- files -----------------------------------------------------------------------------------

TEST_F(RecipeErrorsTest, AMissingFileIsNamed) {
  EXPECT_EQ(error_of([&] { Recipe::load(path("nowhere.toml")); }),
            "recipe " + path("nowhere.toml") +
                " cannot be read (No such file or directory). Name an existing TOML file.");
}

TEST_F(RecipeErrorsTest, AFolderIsNoRecipe) {
  EXPECT_NE(error_of([&] { Recipe::load(path("")); }).find("it is a folder"), std::string::npos);
}

TEST_F(RecipeErrorsTest, BadTomlNamesItsLine) {
  const std::string file = write("a.toml", "[train]\nsteps = 1\ndropout = = 2\n");
  const std::string text = error_of([&] { Recipe::load(file); });
  EXPECT_EQ(text.rfind(file + ":3: this is not TOML (", 0), 0u) << text;
}

TEST_F(RecipeErrorsTest, BadTomlInABaseNamesTheBase) {
  const std::string base = write("base.toml", "[train\n");
  const std::string child = write("child.toml", "extends = \"base.toml\"\n");
  const std::string text = error_of([&] { Recipe::load(child); });
  EXPECT_EQ(text.rfind(base + ":1: this is not TOML (", 0), 0u) << text;
}

TEST_F(RecipeErrorsTest, AKeySaidTwiceIsAnError) {
  const std::string text = check_error("[train]\nsteps = 1\nshuffle = true\nsteps = 2\n");
  EXPECT_EQ(text.rfind("r.toml:4: ", 0), 0u) << text;
  EXPECT_NE(text.find("steps"), std::string::npos) << text;
}

TEST_F(RecipeErrorsTest, KeysArePlainWords) {
  EXPECT_EQ(check_error("[train]\n\"a.b\" = 1\n"),
            "r.toml:2: key \"a.b\" is not a plain word (letters, digits, _ and - make one). "
            "Rename it.");
}

TEST_F(RecipeErrorsTest, HostileDepthIsAnErrorNotACrash) {
  std::string dots;
  for (int i = 0; i < 9000; ++i) dots += "a.";
  EXPECT_NE(check_error(dots + "a = 1\n").find("lies too deep"), std::string::npos);
  EXPECT_NE(check_error("[" + dots + dots + "a]\n").find("more than 10000 dots"),
            std::string::npos);
  EXPECT_NE(check_error("", {"train.steps={" + dots + dots + "a=1}"}).find("10000 dots"),
            std::string::npos);
  EXPECT_NE(check_error("x = " + std::string(100000, '[')).find("this is not TOML"),
            std::string::npos);
}

// --- unknown names ---------------------------------------------------------------------------

TEST_F(RecipeErrorsTest, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(check_error("[train]\n\nstesp = 1\n"),
            "r.toml:3: unknown key train.stesp (did you mean train.steps?).");
  EXPECT_EQ(check_error("", {"optim.Learning-Rate=1"}),
            "--set optim.Learning-Rate=1: unknown key optim.Learning-Rate (did you mean "
            "optim.learning_rate?).");
}

TEST_F(RecipeErrorsTest, AKnownKeyInTheWrongSectionNamesTheRightOne) {
  EXPECT_EQ(check_error("[train]\nlearning_rate = 1\n"),
            "r.toml:2: unknown key train.learning_rate (did you mean optim.learning_rate?).");
  EXPECT_EQ(check_error("[train]\nlearning_rte = 1\n"),
            "r.toml:2: unknown key train.learning_rte (did you mean optim.learning_rate?).");
  EXPECT_EQ(check_error("steps = 1\n"),
            "r.toml:1: unknown key steps outside any section (did you mean train.steps?).");
}

TEST_F(RecipeErrorsTest, TheVeryKeyElsewhereComesBeforeALikeOneHere) {
  struct Every {
    int64_t every = 1;
    void describe(Fields& f) { f.field("every", every, {.help = "steps between two"}); }
  };
  struct Ever {
    int64_t ever = 1;
    void describe(Fields& f) { f.field("ever", ever, {.help = "almost the same word"}); }
  };
  Schema schema;
  schema.section<Ever>("run");
  schema.section<Every>("log");
  schema.section<Every>("sample");
  EXPECT_EQ(error_of([&] { Recipe::from_text("[run]\nevery = 1\n", "r.toml").check(schema); }),
            "r.toml:2: unknown key run.every (did you mean log.every or sample.every?).");
}

TEST_F(RecipeErrorsTest, AKeyNearNothingListsTheSection) {
  EXPECT_EQ(check_error("[optim]\nzzzzzz = 1\n"),
            "r.toml:2: unknown key optim.zzzzzz ([optim] has learning_rate, lr_warmup_steps, "
            "lr_scheduler).");
}

TEST_F(RecipeErrorsTest, AnUnknownSectionIsToldOnce) {
  EXPECT_EQ(check_error("[trian]\nsteps = 1\ndropout = 0\n"),
            "r.toml:1: unknown section [trian] (did you mean [train]?).");
  EXPECT_EQ(check_error("[qqq]\n"),
            "r.toml:1: unknown section [qqq] (the sections are [train], [optim]).");
  EXPECT_EQ(check_error("[qqq]\n[aaa]\n"),
            "r.toml:1: unknown section [qqq] (the sections are [train], [optim]).\n"
            "r.toml:2: unknown section [aaa] (the sections are [train], [optim]).");
  EXPECT_EQ(check_error("", {"trian.steps=1"}),
            "--set trian.steps=1: unknown section [trian] (did you mean [train]?).");
}

TEST_F(RecipeErrorsTest, AKeyIsNotASectionAndASectionNotAKey) {
  EXPECT_EQ(check_error("[train.steps]\nx = 1\n"),
            "r.toml:1: train.steps is a key, not a section (it takes an integer >= 1). Write "
            "steps = ... under [train].");
  EXPECT_EQ(check_error("train = 5\n"),
            "r.toml:1: train = 5 is outside any section (train is a section). Write [train] and "
            "its keys below.");
}

// --- types, ranges, choices ------------------------------------------------------------------

TEST_F(RecipeErrorsTest, IllTypedValuesSayWhatWasFoundAndWhatIsWanted) {
  EXPECT_EQ(check_error("[train]\nsteps = 1000.0\n"),
            "r.toml:2: train.steps = 1000.0 is a float (wanted: an integer >= 1). Write 1000.");
  EXPECT_EQ(check_error("[train]\nsteps = 1.5\n"),
            "r.toml:2: train.steps = 1.5 is a float (wanted: an integer >= 1).");
  EXPECT_EQ(check_error("[train]\nshuffle = 1\n"),
            "r.toml:2: train.shuffle = 1 is an integer (wanted: true or false).");
  EXPECT_EQ(check_error("[train]\ndropout = \"0.5\"\n"),
            "r.toml:2: train.dropout = \"0.5\" is a string (wanted: a number >= 0 and < 1).");
  EXPECT_EQ(check_error("[train]\ndropout = true\n"),
            "r.toml:2: train.dropout = true is a boolean (wanted: a number >= 0 and < 1).");
  EXPECT_EQ(check_error("", {"train.resume=2024"}),
            "--set train.resume=2024: train.resume = 2024 is an integer (wanted: a string, or "
            "\"none\"). Write \"2024\".");
  EXPECT_EQ(check_error("[train]\nresume = 2024-01-01\n"),
            "r.toml:2: train.resume = ... is a date or time (wanted: a string, or \"none\").");
  EXPECT_EQ(check_error("[train]\nmax_grad_norm = \"off\"\n"),
            "r.toml:2: train.max_grad_norm = \"off\" is a string (wanted: a number > 0, or "
            "\"none\").");
  EXPECT_EQ(check_error("[train]\nsteps = \"none\"\n"),  // not an optional
            "r.toml:2: train.steps = \"none\" is a string (wanted: an integer >= 1).");
}

TEST_F(RecipeErrorsTest, ListsAreCheckedElementByElement) {
  EXPECT_EQ(check_error("[train]\nmilestones = 5\n"),
            "r.toml:2: train.milestones = 5 is an integer (wanted: a list of integers, each >= 0). "
            "Write [5].");
  EXPECT_EQ(check_error("[train]\nmilestones = [5, -1]\n"),
            "r.toml:2: train.milestones = [5, -1] holds -1 at place 2, which is out of range "
            "(wanted: a list of integers, each >= 0).");
  EXPECT_EQ(check_error("[train]\nprompts = [\"a\", 5]\n"),
            "r.toml:2: train.prompts = [\"a\", 5] holds 5 at place 2, which is an integer (wanted: "
            "a list of strings). Write \"5\".");
  EXPECT_NE(check_error("[train]\nmilestones = [[1]]\n").find("which is a list"),
            std::string::npos);
}

TEST_F(RecipeErrorsTest, EachKindOfBoundHoldsAtItsEdge) {
  struct Bounded {
    double closed = 0.5, open = 0.5;
    std::optional<int64_t> maybe = 1;
    void describe(Fields& f) {
      f.field("closed", closed, {.help = "0 to 1", .min = 0, .max = 1});
      f.field("open", open, {.help = "inside 0 to 1", .above = 0, .below = 1});
      f.field("maybe", maybe, {.help = "small", .min = 0, .max = 3});
    }
  };
  Schema schema;
  schema.section<Bounded>("b");
  const auto passes = [&](const std::string& set) {
    try {
      Recipe::from_text("", "r", Strings{set}).check(schema);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("is out of range"), std::string::npos);
      return false;
    }
    return true;
  };
  EXPECT_TRUE(passes("b.closed=0"));
  EXPECT_TRUE(passes("b.closed=1"));
  EXPECT_FALSE(passes("b.closed=-1e-9"));
  EXPECT_FALSE(passes("b.closed=1.000001"));
  EXPECT_TRUE(passes("b.open=1e-9"));
  EXPECT_TRUE(passes("b.open=0.999"));
  EXPECT_FALSE(passes("b.open=0"));
  EXPECT_FALSE(passes("b.open=1"));
  EXPECT_TRUE(passes("b.maybe=3"));
  EXPECT_FALSE(passes("b.maybe=4"));
  EXPECT_FALSE(passes("b.maybe=-1"));
}

TEST_F(RecipeErrorsTest, NumbersAreFinite) {
  EXPECT_EQ(check_error("[optim]\nlearning_rate = nan\n"),
            "r.toml:2: optim.learning_rate = nan is not finite (wanted: a number >= 0).");
  EXPECT_EQ(check_error("[optim]\nlearning_rate = inf\n"),
            "r.toml:2: optim.learning_rate = inf is not finite (wanted: a number >= 0).");
}

TEST_F(RecipeErrorsTest, ChoicesNameTheNearest) {
  EXPECT_EQ(check_error("[optim]\nlr_scheduler = \"cosin\"\n"),
            "r.toml:2: optim.lr_scheduler = \"cosin\" is not one of the choices (wanted: "
            "\"cosine\" or \"constant\"). Did you mean \"cosine\"?");
  EXPECT_EQ(check_error("", {"train.precision=fp7"}),
            "--set train.precision=fp7: train.precision = \"fp7\" is not one of the choices "
            "(wanted: \"float32\", \"float64\" or \"bfloat16\").");
}

// --- several at once -------------------------------------------------------------------------

TEST_F(RecipeErrorsTest, AllProblemsComeAtOnceOneALine) {
  const std::string base = write("base.toml", "[train]\nsteps = 0\ndropout = 0.5\n");
  const std::string child =
      write("child.toml", "extends = \"base.toml\"\n[train]\nwrong = 1\n[tarin]\nx = 1\n[optim]\n");
  EXPECT_EQ(error_of([&] {
              Recipe::load(child, Strings{"train.shuffle=maybe"}).check(train_and_optim());
            }),
            child + ":4: unknown section [tarin] (did you mean [train]?).\n" +  //
                base + ":2: train.steps = 0 is out of range (wanted: an integer >= 1).\n" + child +
                ":3: unknown key train.wrong ([train] has steps, shuffle, dropout, precision, "
                "milestones, prompts, max_grad_norm, seed, resume).\n"
                "--set train.shuffle=maybe: train.shuffle = \"maybe\" is a string (wanted: true or "
                "false).");
}

TEST_F(RecipeErrorsTest, ProblemsStandInTheOrderOfTheLines) {
  EXPECT_EQ(check_error("[train]\nsteps = 0\ndropout = 1\n[optim]\nlr_warmup_steps = -1\n"
                        "learning_rate = -1\n"),
            "r.toml:2: train.steps = 0 is out of range (wanted: an integer >= 1).\n"
            "r.toml:3: train.dropout = 1 is out of range (wanted: a number >= 0 and < 1).\n"
            "r.toml:5: optim.lr_warmup_steps = -1 is out of range (wanted: an integer >= 0).\n"
            "r.toml:6: optim.learning_rate = -1 is out of range (wanted: a number >= 0).");
}

TEST_F(RecipeErrorsTest, SectionTellsAllItsOwnProblemsWithoutASchema) {
  const Recipe recipe =
      Recipe::from_text("[train]\nsteps = 0\nshuffle = 2\n[optim]\nlearning_rate = -1\n", "r.toml");
  EXPECT_EQ(error_of([&] { recipe.section<TrainOptions>("train"); }),
            "r.toml:2: train.steps = 0 is out of range (wanted: an integer >= 1).\n"
            "r.toml:3: train.shuffle = 2 is an integer (wanted: true or false).");
}

TEST_F(RecipeErrorsTest, ResolvedAndExplainRefuseWhatCheckRefuses) {
  const Recipe recipe = Recipe::from_text("[train]\nwrong = 1\n", "r.toml");
  EXPECT_EQ(error_of([&] { recipe.resolved_toml(train_and_optim()); }),
            check_error("[train]\nwrong = 1\n"));
  EXPECT_EQ(error_of([&] { recipe.explain(train_and_optim()); }),
            check_error("[train]\nwrong = 1\n"));
}

TEST_F(RecipeErrorsTest, AMessageStaysOneLineAndShort) {
  const std::string text = check_error("", {"train.steps=a\nb" + std::string(5000, 'x')});
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_LT(text.size(), 300u);
  const std::string key(5000, 'k');
  EXPECT_LT(check_error("[train]\n" + key + " = 1\n").size(), 300u);
  EXPECT_LT(check_error(key + " = 1\n").size(), 300u);
  EXPECT_LT(check_error("[" + key + "]\n").size(), 300u);
  EXPECT_LT(check_error("[a.b.c.d.e.f.g.h.i." + key + "]\n").size(), 300u);
  // A cut inside a character would make the message itself invalid UTF-8.
  std::string accents;
  for (int i = 0; i < 500; ++i) accents += "\xc3\xa9";
  for (const char* shift : {"", "x"}) {
    const std::string cut = check_error("[train]\nsteps = \"" + (shift + accents) + "\"\n");
    const size_t dots = cut.find("...");
    ASSERT_NE(dots, std::string::npos);
    EXPECT_EQ(cut[dots - 1], '\xa9');
  }
}

TEST_F(RecipeErrorsTest, ErrorAtNamesThePlaceOfTheKey) {
  const std::string file = write("a.toml", "[train]\nsteps = 5\n");
  const Recipe recipe = Recipe::load(file, Strings{"train.seed=3"});
  const Error error = recipe.error_at("train.steps", "train.steps = 5 is odd.");
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_STREQ(error.what(), (file + ":2: train.steps = 5 is odd.").c_str());
  EXPECT_STREQ(recipe.error_at("train.seed", "no.").what(), "--set train.seed=3: no.");
  EXPECT_STREQ(recipe.error_at("train.dropout", "no.").what(), (file + ": no.").c_str());
}

}  // namespace
}  // namespace trestle::configs
