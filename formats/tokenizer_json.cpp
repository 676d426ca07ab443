#include "formats/tokenizer_json.h"

#include "base/error.h"
#include "formats/added_tokens.h"
#include "formats/strict_json.h"

#include <initializer_list>
#include <limits>
#include <unordered_map>
#include <utility>

namespace trestle::formats {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 8;
constexpr std::size_t kMaxPieces = std::numeric_limits<std::int32_t>::max();

// Compared as a whole: there is one way to write each.
constexpr std::string_view kNormalizer =
    R"({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})";
// Changes nothing behind that normalizer, which leaves no space: null says the same.
constexpr std::string_view kPreTokenizer =
    R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        "invert": false})";
constexpr std::string_view kDecoder =
    R"({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}]})";

/// null where there is no such key.
const json& value_at(const json& parent, const char* key) {
  static const json null;
  const auto found = parent.find(key);
  return found == parent.end() ? null : *found;
}

const json& value_at(const json& parent, const char* key, json::value_t type, const char* name) {
  const json& value = value_at(parent, key);
  if (value.type() != type) throw JsonProblem(fmt::format("\"{}\" is not {}", key, name));
  return value;
}

void require_keys(const json& object, const char* where, std::initializer_list<const char*> known) {
  for (const auto& [key, value] : object.items()) {
    bool found = false;
    for (const char* name : known) found |= key == name;
    if (!found) throw JsonProblem(fmt::format("{} has the key {}", where, shown(key)));
  }
}

/// How a message names what a part of the file is: its "type", or what JSON calls it.
std::string kind_of(const json& value) {
  if (value.is_object() && value_at(value, "type").is_string()) {
    return shown(value_at(value, "type").get<std::string>());
  }
  return value.type_name();
}

void require_same(const json& file, const char* key, std::string_view known) {
  const json& value = value_at(file, key);
  if (value == json::parse(known)) return;
  throw JsonProblem(fmt::format("its {} ({}) is not Gemma's", key, kind_of(value)));
}

std::unordered_map<std::string_view, std::int32_t> ids_of(const std::vector<std::string>& pieces) {
  std::unordered_map<std::string_view, std::int32_t> ids(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    ids.emplace(pieces[id], static_cast<std::int32_t>(id));
  }
  return ids;
}

std::vector<std::string> read_pieces(const json& vocab) {
  if (vocab.empty() || vocab.size() > kMaxPieces) throw JsonProblem("\"vocab\" has no pieces");
  std::vector<std::string> pieces(vocab.size());
  for (const auto& [piece, id] : vocab.items()) {
    if (piece.empty()) throw JsonProblem("\"vocab\" has an empty piece");
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= pieces.size() ||
        !pieces[id.get<std::size_t>()].empty()) {
      throw JsonProblem(fmt::format("the ids of \"vocab\" are not 0 to {}, each once ({} has {})",
                                    pieces.size() - 1, shown(piece), shown(id.dump())));
    }
    pieces[id.get<std::size_t>()] = piece;
  }
  return pieces;
}

/// The two sides of a merge: ["a", "b"], or "a b" as older files have it.
std::pair<std::string, std::string> sides_of(const json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const auto space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  throw JsonProblem("\"merges\" holds something other than pairs of pieces");
}

std::vector<BpeVocabulary::Merge> read_merges(const json& stored,
                                              const std::vector<std::string>& pieces) {
  const auto ids = ids_of(pieces);
  const auto id_of = [&](const std::string& piece) {
    const auto found = ids.find(piece);
    if (found == ids.end()) {
      throw JsonProblem(fmt::format("a merge needs {}, which \"vocab\" has not", shown(piece)));
    }
    return found->second;
  };
  std::vector<BpeVocabulary::Merge> merges;
  merges.reserve(stored.size());
  for (const json& merge : stored) {
    const auto [left, right] = sides_of(merge);
    merges.push_back({id_of(left), id_of(right), id_of(left + right)});
  }
  return merges;
}

BpeVocabulary read_model(const json& model) {
  const json& type = value_at(model, "type");
  if (type != "BPE") throw JsonProblem(fmt::format("its model ({}) is not BPE", kind_of(model)));
  require_keys(model, "its model",
               {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!value_at(model, key).is_null()) throw JsonProblem(fmt::format("it sets \"{}\"", key));
  }
  if (value_at(model, "byte_fallback") != true) throw JsonProblem("it has no \"byte_fallback\"");
  if (value_at(model, "ignore_merges") == true) throw JsonProblem("it sets \"ignore_merges\"");
  BpeVocabulary vocabulary;
  vocabulary.pieces = read_pieces(value_at(model, "vocab", json::value_t::object, "an object"));
  vocabulary.merges =
      read_merges(value_at(model, "merges", json::value_t::array, "a list"), vocabulary.pieces);
  return vocabulary;
}

/// The ids that stand for a token of the template.
std::vector<std::int64_t> template_ids(const json& tokens, const json& item) {
  const json& name = value_at(item, "id", json::value_t::string, "a text");
  const json& token = value_at(tokens, name.get_ref<const std::string&>().c_str(),
                               json::value_t::object, "a token of the template");
  std::vector<std::int64_t> ids;
  for (const json& id : value_at(token, "ids", json::value_t::array, "a list")) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > kMaxPieces) {
      throw JsonProblem("the template has an id that is none");
    }
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

void read_template(const json& file, TokenizerJson& into) {
  const json& processor = value_at(file, "post_processor");
  if (processor.is_null()) return;
  if (!processor.is_object() || value_at(processor, "type") != "TemplateProcessing") {
    throw JsonProblem(fmt::format("its post_processor ({}) is no template", kind_of(processor)));
  }
  const json& tokens = value_at(processor, "special_tokens", json::value_t::object, "an object");
  bool text_seen = false;
  for (const json& item : value_at(processor, "single", json::value_t::array, "a list")) {
    if (!item.is_object() || item.size() != 1) throw JsonProblem("its template is malformed");
    if (item.contains("Sequence")) {
      if (text_seen || !item["Sequence"].is_object() || value_at(item["Sequence"], "id") != "A") {
        throw JsonProblem("its template has another sequence than A, once");
      }
      text_seen = true;
    } else {
      const json& token = value_at(item, "SpecialToken", json::value_t::object, "an object");
      for (const std::int64_t id : template_ids(tokens, token)) {
        (text_seen ? into.after : into.before).push_back(id);
      }
    }
  }
  if (!text_seen) throw JsonProblem("its template has no sequence");
}

/// Both are settings of whoever saved the file last. The caller sets them anew for every text, but
/// the side that is cut off stays.
void read_leftovers(const json& file, TokenizerJson& into) {
  const json& truncation = value_at(file, "truncation");
  if (!truncation.is_null() &&
      (!truncation.is_object() || value_at(truncation, "direction") != "Right")) {
    throw JsonProblem("it cuts off texts on another side than the right");
  }
  const json& padding = value_at(file, "padding");
  if (padding.is_null()) return;
  if (!padding.is_object()) throw JsonProblem("\"padding\" is not an object");
  into.pad_token = value_at(padding, "pad_token", json::value_t::string, "a text");
}

TokenizerJson parse(std::string_view text) {
  const json file = parse_json_object(text, kMaxDepth);
  require_keys(file, "it",
               {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                "post_processor", "decoder", "model"});
  TokenizerJson result;
  result.vocabulary = read_model(value_at(file, "model", json::value_t::object, "an object"));
  require_same(file, "normalizer", kNormalizer);
  if (!value_at(file, "pre_tokenizer").is_null()) {
    require_same(file, "pre_tokenizer", kPreTokenizer);
  }
  require_same(file, "decoder", kDecoder);
  read_template(file, result);
  read_leftovers(file, result);
  for (const json& token : value_at(file, "added_tokens", json::value_t::array, "a list")) {
    result.vocabulary.added.push_back(read_added_token(token));
  }
  return result;
}

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name) {
  try {
    return parse(text);
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data,
         "{} is no tokenizer that can be used ({}). Take the tokenizer of a Gemma model, as "
         "transformers saves it.",
         name, problem.what());
  }
}

}  // namespace trestle::formats
