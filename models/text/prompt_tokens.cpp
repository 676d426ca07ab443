#include "models/text/prompt_tokens.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/utf8.h"
#include "models/text/python_text.h"

#include <fmt/ranges.h>

#include <numeric>

namespace trestle::models::text {
namespace {

/// Of the tokens that the instruction has alone, two are not before the prompt: <bos>, which the
/// selection takes anyway, and the space at its end, which becomes a part of the prompt's first
/// word.
constexpr std::int64_t kNotBeforeThePrompt = 2;

std::string prepared(const std::string& prompt) {
  require_utf8(prompt, "a prompt");
  return std::string(strip(lower(prompt)));
}

}  // namespace

std::string instruction_digest(std::span<const std::string> instruction) {
  if (instruction.empty()) return digest_128("no instruction");
  return digest_128(fmt::format("instruction\n{}", fmt::join(instruction, "\n")));
}

PromptTokenizer::PromptTokenizer(const Tokenizer& tokenizer,
                                 std::span<const std::string> instruction, std::int64_t length)
    : tokenizer_(tokenizer),
      instruction_(fmt::format("{}", fmt::join(instruction, "\n"))),
      length_(length),
      length_with_instruction_(length) {
  TRESTLE_REQUIRE(length >= 1, "prompts of {} tokens are asked for (one is the least). Set more.",
                  length);
  if (instruction.empty()) return;
  require_utf8(instruction_, "the instruction before prompts");
  const auto alone = std::int64_t(tokenizer.encode(instruction_).size());
  length_with_instruction_ = alone + length - kNotBeforeThePrompt;
  TRESTLE_REQUIRE_AS(data, length_with_instruction_ >= length - 1,
                     "the instruction before prompts has no tokens (an empty one says nothing). "
                     "Give none, or one with text.");
}

PromptTokens PromptTokenizer::positive(std::span<const std::string> prompts) const {
  return tokens_of(prompts, instruction_, length_with_instruction_);
}

PromptTokens PromptTokenizer::negative(std::span<const std::string> prompts) const {
  return tokens_of(prompts, "", length_);
}

PromptTokens PromptTokenizer::tokens_of(std::span<const std::string> prompts,
                                        const std::string& before, std::int64_t length) const {
  std::vector<std::string> texts;
  for (const std::string& prompt : prompts) texts.push_back(before + prepared(prompt));
  PromptTokens result{.tokens = tokenizer_.encode_padded(texts, length)};
  // The first position, and the last ones: all, where none are too many.
  result.selected.resize(length_);
  std::iota(result.selected.begin(), result.selected.end(), length - length_);
  result.selected[0] = 0;
  return result;
}

}  // namespace trestle::models::text
