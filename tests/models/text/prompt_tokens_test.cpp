#include "models/text/prompt_tokens.h"

#include "tests/formats/hostile.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

namespace trestle::models::text {
namespace {

using trestle::testing::refusal;
using trestle::testing::tiny_tokenizer_json;

using Texts = std::vector<std::string>;

class Prompts : public ::testing::Test {
 protected:
  Tokenizer tokenizer_{{.folder = "tiny", .tokenizer_json = tiny_tokenizer_json().dump()}};

  std::string row(const PromptTokens& prompts, std::int64_t number) const {
    const auto& ids = prompts.tokens.ids;
    const auto begin = ids.begin() + number * prompts.tokens.length;
    return tokenizer_.decode(std::vector(begin, begin + prompts.tokens.length),
                             SpecialTokens::keep);
  }
  /// The positions that are kept, as text.
  std::string kept(const PromptTokens& prompts, std::int64_t number) const {
    std::vector<std::int64_t> ids;
    for (const std::int64_t position : prompts.selected) {
      ids.push_back(prompts.tokens.ids.at(number * prompts.tokens.length + position));
    }
    return tokenizer_.decode(ids, SpecialTokens::keep);
  }
};

TEST_F(Prompts, AreLoweredAndStripped) {
  const PromptTokenizer prompts(tokenizer_, {}, 4);
  const PromptTokens tokens = prompts.positive(Texts{"  ABA \n", ""});
  EXPECT_EQ(row(tokens, 0), "<bos>aba<pad>");
  EXPECT_EQ(row(tokens, 1), "<bos><pad><pad><pad>");
  EXPECT_EQ(tokens.selected, (std::vector<std::int64_t>{0, 1, 2, 3}));
}

TEST_F(Prompts, TheInstructionStandsBeforeThemAndIsNotKept) {
  // <bos> C : \n b space: six tokens, and the space joins the prompt's first letter.
  const PromptTokenizer prompts(tokenizer_, Texts{"C:", "b "}, 5);
  const PromptTokens tokens = prompts.positive(Texts{"A c", "Abcabcabcabcabcabcabc"});
  EXPECT_EQ(tokens.tokens.length, 6 + 5 - 2);
  EXPECT_EQ(row(tokens, 0), "<bos>C:\nb a c<pad>");
  EXPECT_EQ(tokens.selected, (std::vector<std::int64_t>{0, 5, 6, 7, 8}));
  EXPECT_EQ(kept(tokens, 0), "<bos> a c<pad>");
  EXPECT_EQ(kept(tokens, 1), "<bos> abcabcabc") << "cut off behind";
}

TEST_F(Prompts, NegativeOnesHaveNoInstruction) {
  const PromptTokenizer prompts(tokenizer_, Texts{"C:", "b "}, 5);
  const PromptTokens tokens = prompts.negative(Texts{" B"});
  EXPECT_EQ(row(tokens, 0), "<bos>b<pad><pad><pad>");
  EXPECT_EQ(kept(tokens, 0), row(tokens, 0));
}

TEST_F(Prompts, WhatCannotBeIsRefused) {
  EXPECT_NE(refusal(ExitCode::usage, [&] { PromptTokenizer(tokenizer_, {}, 0); }), "");
  const PromptTokenizer prompts(tokenizer_, {}, 4);
  EXPECT_NE(refusal(ExitCode::data, [&] { prompts.positive(Texts{"\xc3"}); }).find("not UTF-8"),
            std::string::npos);
}

TEST(SanaInstruction, IsEightLinesAndHasADigestOfItsOwn) {
  const Texts lines = sana_instruction();
  ASSERT_EQ(lines.size(), 8U);
  EXPECT_TRUE(lines.front().starts_with("Given a user prompt, "));
  EXPECT_EQ(lines.back(), "User Prompt: ");
  const std::string digest = instruction_digest(lines);
  EXPECT_EQ(digest.size(), 32U);
  EXPECT_NE(digest, instruction_digest({}));
  EXPECT_NE(digest, instruction_digest(Texts{lines.begin(), lines.end() - 1}));
  EXPECT_EQ(instruction_digest(Texts{"a\nb"}), instruction_digest(Texts{"a", "b"}));
  EXPECT_NE(instruction_digest({}), instruction_digest(Texts{""}));
}

}  // namespace
}  // namespace trestle::models::text
