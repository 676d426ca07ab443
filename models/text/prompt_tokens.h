// From a prompt to what the text encoder is given, as diffusers' SanaPipeline.encode_prompt does
// it: lower case, white space stripped, the instruction before it, cut and padded; and which
// positions of the encoder's answer are the embedding.
//
// LOCAL. THREADS: any.
//   const PromptTokenizer prompts(tokenizer, sana_instruction());
//   const PromptTokens positive = prompts.positive({"A cat"}), negative = prompts.negative({""});
#pragma once
#include "models/text/tokenizer.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trestle::models::text {

/// What the text encoder is given, and the positions of its answer that are kept, in this order.
struct PromptTokens {
  PaddedTokens tokens;
  std::vector<std::int64_t> selected = {};
};

/// The "complex human instruction" that SanaPipeline puts before prompts, line by line
/// (sana_instruction.json).
std::vector<std::string> sana_instruction();

/// Of the text that an instruction is, for the keys of caches: 32 hexadecimal digits. None at all
/// has one, too.
std::string instruction_digest(std::span<const std::string> instruction);

class PromptTokenizer {
 public:
  /// `tokenizer` has to live as long. `length`: positions of an embedding. No lines: the prompts
  /// stand alone, as diffusers has it in encode_prompt and in its training scripts.
  explicit PromptTokenizer(const Tokenizer& tokenizer, std::span<const std::string> instruction,
                           std::int64_t length = 300);

  PromptTokens positive(std::span<const std::string> prompts) const;
  /// What guidance leads away from: without the instruction.
  PromptTokens negative(std::span<const std::string> prompts) const;

 private:
  PromptTokens tokens_of(std::span<const std::string> prompts, const std::string& before,
                         std::int64_t length) const;

  const Tokenizer& tokenizer_;
  std::string instruction_;
  std::int64_t length_;
  std::int64_t length_with_instruction_;
};

}  // namespace trestle::models::text
