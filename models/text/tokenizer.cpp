#include "models/text/tokenizer.h"

#include "base/error.h"
#include "base/utf8.h"
#include "models/text/tokenizer_data.h"

#include <algorithm>
#include <limits>

namespace trestle::models::text {
namespace {

constexpr std::string_view kNoCharacter = "\ufffd";
constexpr std::size_t kMostBytes = std::numeric_limits<std::int32_t>::max() / kSpaceMark.size();

/// Appends what a run of byte pieces says: all of it is UTF-8 together, or each byte is unknown.
void append_bytes(std::string& text, std::string& run) {
  if (valid_utf8_bytes(run) == run.size()) {
    text += run;
  } else {
    for (std::size_t i = 0; i < run.size(); ++i) text += kNoCharacter;
  }
  run.clear();
}

}  // namespace

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string result;
  while (true) {
    const auto found = text.find(what);
    result += text.substr(0, found);
    if (found == text.npos) return result;
    result += by;
    text.remove_prefix(found + what.size());
  }
}

std::int64_t Tokenizer::size() const { return std::int64_t(data_->texts.size()); }
std::optional<std::int64_t> Tokenizer::pad_id() const { return data_->pad; }

std::vector<std::int64_t> Tokenizer::encode(std::string_view text) const {
  require_utf8(text, "a prompt");
  TRESTLE_REQUIRE_AS(data, text.size() <= kMostBytes,
                     "a prompt has {} bytes ({} are the most). Shorten it.", text.size(),
                     kMostBytes);
  std::vector<std::int64_t> ids = data_->before;
  const auto add_id = [&](std::int64_t id) { ids.push_back(id); };
  data_->before_spaces.split(
      text,
      [&](std::string_view between) {
        data_->after_spaces.split(
            replaced(between, " ", kSpaceMark),
            [&](std::string_view rest) { data_->bpe.encode(rest, ids); }, add_id);
      },
      add_id);
  ids.insert(ids.end(), data_->after.begin(), data_->after.end());
  return ids;
}

PaddedTokens Tokenizer::encode_padded(std::span<const std::string> texts,
                                      std::int64_t length) const {
  const auto around = std::int64_t(data_->before.size() + data_->after.size());
  TRESTLE_REQUIRE_AS(data, length >= 1 && length >= around,
                     "prompts of {} tokens are asked for ({} stand around each). Set a greater "
                     "length.",
                     length, around);
  TRESTLE_REQUIRE_AS(data, data_->pad,
                     "the tokenizer has no pad_token (shorter prompts are filled up with it). Name "
                     "one in tokenizer_config.json.");
  PaddedTokens result{.rows = std::int64_t(texts.size()), .length = length};
  result.ids.assign(texts.size() * length, *data_->pad);
  result.mask.assign(texts.size() * length, 0);
  for (std::size_t row = 0; row < texts.size(); ++row) {
    std::vector<std::int64_t> ids = encode(texts[row]);
    if (std::int64_t(ids.size()) > length) {
      ids.resize(length);
      std::ranges::copy(data_->after, ids.end() - std::int64_t(data_->after.size()));
    }
    const auto begin = std::int64_t(row) * length;
    std::ranges::copy(ids, result.ids.begin() + begin);
    std::fill_n(result.mask.begin() + begin, ids.size(), 1);
  }
  return result;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, SpecialTokens special) const {
  std::string text;
  std::string run;  // of byte pieces
  for (const std::int64_t id : ids) {
    TRESTLE_REQUIRE_AS(
        data, id >= 0 && id < size(),
        "the id {} stands for no text (there are {}). Use the tokenizer that made it.", id, size());
    if (special == SpecialTokens::leave_out && data_->special.contains(id)) continue;
    if (const int byte = byte_of_piece(data_->texts[id]); byte >= 0) {
      run += static_cast<char>(byte);
      continue;
    }
    append_bytes(text, run);
    text += replaced(data_->texts[id], kSpaceMark, " ");
  }
  append_bytes(text, run);
  return text;
}

}  // namespace trestle::models::text
