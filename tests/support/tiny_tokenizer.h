// A Gemma tokenizer small enough to work out by hand, as the text of each file that can hold it.
#pragma once
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::testing {

inline constexpr int kFirstByte = 8;     // id of <0x00>
inline constexpr int kFirstPiece = 264;  // behind the bytes

/// By id: specials, a line break, two marks of a space, the bytes, then letters and what they join
/// to.
inline std::vector<std::string> tiny_pieces() {
  std::vector<std::string> pieces = {"<pad>",  "<eos>",           "<bos>", "<unk>",
                                     "<mask>", "<start_of_turn>", "\n",    "\u2581\u2581"};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back(fmt::format("<0x{:02X}>", byte));
  for (const char* piece : {"\u2581", "a", "b", "c", "ab", "bc", "abc", "\u2581a", "\u00e9"}) {
    pieces.emplace_back(piece);
  }
  return pieces;
}

inline nlohmann::json tiny_tokenizer_json() {
  using nlohmann::json;
  json vocab = json::object();
  json added = json::array();
  const std::vector<std::string> pieces = tiny_pieces();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    vocab[pieces[id]] = id;
    if (id < std::size_t(kFirstByte)) {
      added.push_back({{"id", id},
                       {"content", pieces[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", id < 5}});
    }
  }
  json file = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                      "behavior": "MergedWithPrevious", "invert": false},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [],
      "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
      "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
      "byte_fallback": true, "ignore_merges": false,
      "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], ["\u2581", "a"]]}})");
  file["model"]["vocab"] = vocab;
  file["added_tokens"] = added;
  return file;
}

// The wire format of protocol buffers, as much of it as tokenizer.model needs.
inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
inline std::string number_field(std::uint64_t field, std::uint64_t value) {
  return varint(field << 3) + varint(value);
}
inline std::string bytes_field(std::uint64_t field, std::string_view bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}

/// One piece of tokenizer.model; the score in between is read by nobody.
inline std::string model_piece(std::string_view text, std::uint64_t kind) {
  const std::string score = varint(2 << 3 | 5) + std::string("\0\0\x80\xbf", 4);
  return bytes_field(1, bytes_field(1, text) + score + number_field(3, kind));
}
/// BPE with bytes to fall back on; no dummy prefix, spaces kept.
inline std::string model_settings() {
  return bytes_field(2, number_field(3, 2) + number_field(35, 1)) +
         bytes_field(3, bytes_field(1, "identity") + number_field(3, 0) + number_field(4, 0) +
                            number_field(5, 1));
}

inline std::string tiny_tokenizer_model() {
  std::string bytes;
  const std::vector<std::string> pieces = tiny_pieces();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const bool is_byte = id >= std::size_t(kFirstByte) && id < std::size_t(kFirstPiece);
    const std::uint64_t kind = is_byte ? 6 : id == 3 ? 2 : id < 3 ? 3 : id < 8 ? 4 : 1;
    bytes += model_piece(pieces[id], kind);
  }
  return bytes + model_settings();
}

}  // namespace trestle::testing
