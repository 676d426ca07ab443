// tokenizer.json, the file of the `tokenizers` library, for the one kind of tokenizer that Gemma's
// is: byte-pair encoding with bytes to fall back on, spaces written as U+2581, a template that says
// which ids stand before and after a text. All else that such a file can say (other models,
// normalizers, dropout, a key that is not known here) is refused by name, because it would give
// other ids.
//
// LOCAL. THREADS: any.
//   const TokenizerJson json = parse_tokenizer_json(text, "tokenizer/tokenizer.json");
#pragma once
#include "formats/bpe_vocabulary.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

struct TokenizerJson {
  BpeVocabulary vocabulary;
  std::vector<std::int64_t> before, after;  ///< the template's ids around a text
  std::string pad_token;                    ///< of a stored "padding"; empty: none is stored
};

/// Errors: ExitCode::data, naming the file by `name`.
TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name);

}  // namespace trestle::formats
