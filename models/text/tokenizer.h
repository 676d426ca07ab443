// A Gemma tokenizer: prompts to ids and back, as transformers' GemmaTokenizer does it.
//
// A folder is read as transformers reads it: tokenizer.json if it is there (then its template alone
// says whether <bos> comes first), else tokenizer.model (then add_bos_token of
// tokenizer_config.json says it, and without the key there is none); tokenizer_config.json and
// special_tokens_map.json give the special tokens their names. Whatever in them asks for another
// tokenizer than Gemma's is refused by name.
//
// LOCAL. THREADS: any number, on one tokenizer. Errors: ExitCode::data.
//   const auto tokenizer = Tokenizer::from_folder("gemma/tokenizer");
//   const PaddedTokens tokens = tokenizer.encode_padded(prompts, 300);
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::text {

/// The files of a tokenizer as bytes; without a value: there is no such file.
struct TokenizerFiles {
  std::string folder;  ///< for messages
  std::optional<std::string> tokenizer_json = std::nullopt;
  std::optional<std::string> tokenizer_model = std::nullopt;  ///< read where the first is missing
  std::optional<std::string> tokenizer_config = std::nullopt;
  std::optional<std::string> special_tokens_map = std::nullopt;
};

/// Texts as rows of one length, row after row.
struct PaddedTokens {
  std::int64_t rows = 0;
  std::int64_t length = 0;
  std::vector<std::int64_t> ids = {};
  std::vector<std::int64_t> mask = {};  ///< 1: of the text; 0: padding, always on the right
};

enum class SpecialTokens { keep, leave_out };

class Tokenizer {
 public:
  static Tokenizer from_folder(const std::filesystem::path& folder);
  explicit Tokenizer(const TokenizerFiles& files);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  std::int64_t size() const;                   ///< ids are below it
  std::optional<std::int64_t> pad_id() const;  ///< none where the configuration says so

  /// The ids of a text that is UTF-8, with what stands before and after every text (<bos>).
  std::vector<std::int64_t> encode(std::string_view text) const;

  /// The same for each text, cut on the right and padded on the right to `length`. What stands
  /// before and after is never cut off.
  PaddedTokens encode_padded(std::span<const std::string> texts, std::int64_t length) const;

  /// The text of ids. Bytes that are not UTF-8 together become U+FFFD, one each.
  std::string decode(std::span<const std::int64_t> ids, SpecialTokens special) const;

  struct Data;  ///< tokenizer_data.h

 private:
  std::unique_ptr<const Data> data_;
};

}  // namespace trestle::models::text
