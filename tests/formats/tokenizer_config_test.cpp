#include "formats/tokenizer_config.h"

#include "tests/formats/hostile.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

using trestle::testing::refusal;

TokenizerConfig parse(std::string_view text) {
  return parse_tokenizer_config(text, "tokenizer_config.json");
}

TEST(TokenizerConfig, SaysWhatDecidesIdsAndLeavesTheRest) {
  const TokenizerConfig config = parse(R"({
    "add_bos_token": true, "add_eos_token": null, "bos_token": "<s>", "mask_token": null,
    "unk_token": {"__type": "AddedToken", "content": "<u>", "lstrip": false},
    "image_token": "<image>", "image_token_id": 7, "model_max_length": 1e30,
    "extra_special_tokens": ["\n", {"content": "<turn>"}], "chat_template": [{"name": [["x"]]}],
    "tokenizer_class": "GemmaTokenizer", "truncation_side": "right",
    "added_tokens_decoder": {"10": {"content": "j", "special": true}, "9": {"content": "i"}}})");
  EXPECT_TRUE(config.add_bos_token);
  EXPECT_FALSE(config.add_eos_token);
  ASSERT_EQ(config.named.size(), 4U);
  EXPECT_EQ(config.named.at("bos_token")->content, "<s>");
  EXPECT_EQ(config.named.at("unk_token")->content, "<u>");
  EXPECT_EQ(config.named.at("image_token")->content, "<image>");
  EXPECT_FALSE(config.named.at("mask_token"));
  ASSERT_EQ(config.extra.size(), 2U);
  EXPECT_EQ(config.extra[0].content, "\n");
  EXPECT_TRUE(config.extra[1].special);
  ASSERT_TRUE(config.added);
  ASSERT_EQ(config.added->size(), 2U);
  EXPECT_EQ(config.added->at(0).content, "i") << "in the order of their ids";
  EXPECT_EQ(config.added->at(0).id, 9);
  EXPECT_TRUE(config.added->at(0).normalized) << "unless it is special or says otherwise";
  EXPECT_FALSE(config.added->at(1).normalized);
}

TEST(TokenizerConfig, TheMapOfSpecialTokensWins) {
  TokenizerConfig config = parse(R"({"bos_token": "<s>", "eos_token": "</s>"})");
  add_special_tokens_map(R"({"bos_token": {"content": "<b>"}, "additional_special_tokens": ["x"]})",
                         "special_tokens_map.json", config);
  EXPECT_EQ(config.named.at("bos_token")->content, "<b>");
  EXPECT_EQ(config.named.at("eos_token")->content, "</s>");
  EXPECT_EQ(config.extra.at(0).content, "x");
}

TEST(TokenizerConfig, WhatIsNotDoneIsRefusedByName) {
  const auto expect = [](const char* text, const std::string& why) {
    const std::string message = refusal(ExitCode::data, [&] { parse(text); });
    EXPECT_NE(message.find("tokenizer_config.json cannot be used"), std::string::npos);
    EXPECT_NE(message.find(why), std::string::npos) << text << "\n" << message;
  };
  expect(R"({"tokenizer_class": "LlamaTokenizer"})", "its tokenizer_class is \"LlamaTokenizer\"");
  expect(R"({"tokenizer_class": 3})", "its tokenizer_class is number");
  expect(R"({"split_special_tokens": true})", "it sets \"split_special_tokens\"");
  expect(R"({"add_prefix_space": true})", "it sets \"add_prefix_space\"");
  expect(R"({"truncation_side": "left"})", "another side than the right");
  expect(R"({"add_bos_token": 1})", "\"add_bos_token\" is not true or false");
  expect(R"({"bos_token": 1})", "\"bos_token\" is no token");
  expect(R"({"bos_token": ""})", "\"bos_token\" is no token");
  expect(R"({"bos_token": {"content": "a", "rstrip": true}})", "sets \"rstrip\"");
  expect(R"({"extra_special_tokens": "a"})", "\"extra_special_tokens\" is not a list");
  expect(R"({"added_tokens_decoder": []})", "\"added_tokens_decoder\" is not an object");
  expect(R"({"added_tokens_decoder": {"-1": {"content": "a"}}})", "has the id \"-1\"");
  expect(R"({"added_tokens_decoder": {"9x": {"content": "a"}}})", "has the id \"9x\"");
  expect("[]", "not an object");
}

}  // namespace
}  // namespace trestle::formats
