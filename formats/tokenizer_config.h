// tokenizer_config.json and special_tokens_map.json: what transformers writes beside a tokenizer,
// as far as it decides which ids a text gets. Everything else in them (chat templates, lengths) is
// left alone; what would change the ids in a way that is not done here is refused by name.
//
// LOCAL. THREADS: any.
#pragma once
#include "formats/bpe_vocabulary.h"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

struct TokenizerConfig {
  bool add_bos_token = false;
  bool add_eos_token = false;
  /// "bos_token" and so on: its token, or nothing where the file says null.
  std::map<std::string, std::optional<AddedToken>, std::less<>> named;
  std::vector<AddedToken> extra;                 ///< "extra_special_tokens", by either of its names
  std::optional<std::vector<AddedToken>> added;  ///< "added_tokens_decoder", by id
};

/// Errors: ExitCode::data, naming the file by `name`.
TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view name);

/// Adds what special_tokens_map.json says, which wins.
void add_special_tokens_map(std::string_view text, std::string_view name, TokenizerConfig& config);

}  // namespace trestle::formats
