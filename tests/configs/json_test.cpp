// Options from config.json.
#include "configs/json.h"

#include "tests/configs/fixtures.h"

namespace trestle::configs {
namespace {

std::string json_error(const std::string& text) {
  return error_of([&] { from_json<TrainOptions>(text, "config.json"); }, ExitCode::data);
}

TEST(JsonTest, EveryTypeIsRead) {
  const auto train = from_json<TrainOptions>(R"({
    "_class_name": "Any", "_diffusers_version": "0.42.1",
    "steps": 9, "shuffle": false, "dropout": 0.25, "precision": "bfloat16",
    "milestones": [1, 2], "prompts": ["a", "b"], "max_grad_norm": 2, "seed": 5, "resume": "x"})",
                                             "config.json");
  EXPECT_EQ(train.steps, 9);
  EXPECT_FALSE(train.shuffle);
  EXPECT_EQ(train.dropout, 0.25);
  EXPECT_EQ(train.precision, "bfloat16");
  EXPECT_EQ(train.milestones, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(train.prompts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(train.max_grad_norm, std::optional<double>(2.0));
  EXPECT_EQ(train.seed, std::optional<int64_t>(5));
  EXPECT_EQ(train.resume, std::optional<std::string>("x"));
}

TEST(JsonTest, AbsentKeysKeepTheirDefaults) {
  const auto train = from_json<TrainOptions>("{}", "config.json");
  EXPECT_EQ(train.steps, 1000);
  EXPECT_EQ(train.max_grad_norm, std::optional<double>(1.0));
}

TEST(JsonTest, NullEmptiesAnOptionalAndNothingElse) {
  EXPECT_FALSE(from_json<TrainOptions>(R"({"max_grad_norm": null})", "config.json").max_grad_norm);
  EXPECT_EQ(json_error(R"({"steps": null})"),
            "config.json: steps = null is no value (wanted: an integer >= 1).");
}

TEST(JsonTest, TheWordNoneIsAStringHere) {
  EXPECT_EQ(from_json<TrainOptions>(R"({"resume": "none"})", "config.json").resume,
            std::optional<std::string>("none"));
  EXPECT_EQ(json_error(R"({"max_grad_norm": "none"})"),
            "config.json: max_grad_norm = \"none\" is a string (wanted: a number > 0, or null).");
}

TEST(JsonTest, UnknownKeysAreToldWhereSomebodyAsks) {
  std::vector<UnknownKey> unknown;
  const auto train = from_json<TrainOptions>(
      R"({"steps": 7, "shuffl": true, "zzzzzz": 5, "mine": 1})", "config.json", {"mine"}, &unknown);
  EXPECT_EQ(train.steps, 7);
  ASSERT_EQ(unknown.size(), 2u);
  EXPECT_EQ(unknown[0].key, "shuffl");
  EXPECT_EQ(unknown[0].nearest, "shuffle");
  EXPECT_EQ(unknown[1].key, "zzzzzz");
  EXPECT_EQ(unknown[1].nearest, "");
}

TEST(JsonTest, UnknownKeysNameTheNearestUnlessTheyAreBookkeeping) {
  EXPECT_EQ(json_error(R"({"_class_name": "Any", "stesp": 5})"),
            "config.json: unknown key \"stesp\" (did you mean steps?).");
  EXPECT_NE(json_error(R"({"zzzzzz": 5})").find("(the keys are steps, shuffle, "),
            std::string::npos);
  EXPECT_EQ(from_json<TrainOptions>(R"({"mine": 5})", "config.json", {"mine"}).steps, 1000);
  EXPECT_NE(error_of([] { from_json<TrainOptions>(R"({"_class_name": 5})", "c.json", {}); },
                     ExitCode::data)
                .find("unknown key \"_class_name\""),
            std::string::npos);
}

TEST(JsonTest, AllProblemsComeAtOnce) {
  EXPECT_EQ(json_error(R"({"wrongs": {}, "dropout": 1, "steps": 2.0})"),
            "config.json: steps = 2.0 is a float (wanted: an integer >= 1). Write 2.\n"
            "config.json: dropout = 1 is out of range (wanted: a number >= 0 and < 1).\n"
            "config.json: unknown key \"wrongs\" (the keys are steps, shuffle, dropout, precision, "
            "milestones, prompts, max_grad_norm, seed, resume).");
}

TEST(JsonTest, IllTypedValues) {
  EXPECT_NE(json_error(R"({"steps": {"a": 1}})").find("steps = ... is an object (wanted: "),
            std::string::npos);
  EXPECT_NE(json_error(R"({"steps": 18446744073709551615})").find("more than 64 bits"),
            std::string::npos);
  EXPECT_NE(json_error(R"({"milestones": [[1]]})").find("which is a list"), std::string::npos);
}

TEST(JsonTest, ADuplicateKeyIsAnError) {
  EXPECT_EQ(json_error(R"({"steps": 1, "steps": 2})"),
            "config.json: key \"steps\" is there twice (which one counts?). Take one out.");
  // Only the options themselves count: the same word inside a value is another key.
  EXPECT_NE(json_error(R"({"steps": {"seed": 1}, "seed": 1})").find("is an object"),
            std::string::npos);
}

TEST(JsonTest, WhatIsNoJsonObjectIsAnError) {
  const std::string text = json_error("{\n  \"steps\": 1,\n}");
  EXPECT_EQ(text.rfind("config.json: this is not JSON (", 0), 0u) << text;
  EXPECT_NE(text.find("line 3"), std::string::npos) << text;
  EXPECT_NE(json_error("").find("this is not JSON"), std::string::npos);
  EXPECT_NE(json_error("{\"dropout\": 1e999}").find("this is not JSON"), std::string::npos);
  EXPECT_NE(json_error("[1]").find("this is not a JSON object"), std::string::npos);
}

TEST(JsonTest, HostileDepthIsAnErrorNotACrash) {
  const std::string open(200000, '['), close(200000, ']');
  EXPECT_NE(json_error("{\"milestones\": " + open + close + "}").find("which is a list"),
            std::string::npos);
}

}  // namespace
}  // namespace trestle::configs
