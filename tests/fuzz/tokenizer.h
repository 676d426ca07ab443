// What is demanded of a tokenizer that was accepted.
#pragma once
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <string>
#include <vector>

namespace trestle::fuzz {

inline void use(const models::text::TokenizerFiles& files) {
  using models::text::SpecialTokens;
  const models::text::Tokenizer tokenizer(files);
  const std::vector<std::string> texts = {"", "a abc\n\n  <bos>b\u2581\u00e9\u00e8\U0001f600",
                                          std::string("\0\t<pad>c", 8)};
  for (const std::string& text : texts) {
    const auto ids = tokenizer.encode(text);
    for (const std::int64_t id : ids)
      demand(id >= 0 && id < tokenizer.size(), "an id is one of the tokenizer's", text);
    tokenizer.decode(ids, SpecialTokens::keep);
    tokenizer.decode(ids, SpecialTokens::leave_out);
  }
  const auto around = static_cast<std::int64_t>(tokenizer.encode("").size());
  if (!tokenizer.pad_id()) return;
  const auto padded = tokenizer.encode_padded(texts, around + 4);
  demand(
      padded.ids.size() == texts.size() * (around + 4) && padded.mask.size() == padded.ids.size(),
      "every row is as long as was asked for");
}

}  // namespace trestle::fuzz
