// From the files of a tokenizer to what it works with.
#include "base/error.h"
#include "base/files.h"
#include "base/utf8.h"
#include "formats/sentencepiece_model.h"
#include "formats/tokenizer_config.h"
#include "formats/tokenizer_json.h"
#include "models/text/from_sentencepiece.h"
#include "models/text/tokenizer_data.h"

#include <system_error>
#include <unordered_map>
#include <utility>

namespace trestle::models::text {
namespace {

namespace fs = std::filesystem;
using formats::AddedToken;
using formats::TokenizerConfig;

// Gemma's own are 34 MB, 4 MB and some kB.
constexpr std::uint64_t kMostBytes = 512 << 20;
constexpr std::size_t kMostShownBytes = 80;

/// The tokens that GemmaTokenizer has whatever the files say, unless they say otherwise.
constexpr std::pair<const char*, const char*> kNamed[] = {{"pad_token", "<pad>"},
                                                          {"eos_token", "<eos>"},
                                                          {"bos_token", "<bos>"},
                                                          {"unk_token", "<unk>"},
                                                          {"mask_token", "<mask>"}};

std::optional<std::string> read_if_there(const fs::path& file) {
  std::error_code ignored;  // opening it says more
  if (fs::symlink_status(file, ignored).type() == fs::file_type::not_found) return std::nullopt;
  return read_text_file(file, kMostBytes, ExitCode::data);
}

TokenizerConfig read_config(const TokenizerFiles& files) {
  TokenizerConfig config;
  if (files.tokenizer_config) {
    config = formats::parse_tokenizer_config(*files.tokenizer_config,
                                             files.folder + "/tokenizer_config.json");
  }
  // A configuration that lists its tokens needs no map, and transformers then reads none.
  if (files.special_tokens_map && !config.added) {
    formats::add_special_tokens_map(*files.special_tokens_map,
                                    files.folder + "/special_tokens_map.json", config);
  }
  return config;
}

/// The ids of texts, first the vocabulary's, then those of added tokens beyond it.
class Ids {
 public:
  explicit Ids(const std::vector<std::string>& pieces) {
    for (const std::string& piece : pieces) ids_.emplace(piece, ids_.size());
  }
  std::optional<std::int64_t> find(const std::string& text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  std::int64_t add(const std::string& text) {
    return ids_.emplace(text, ids_.size()).first->second;
  }

 private:
  std::unordered_map<std::string, std::int64_t> ids_;
};

/// Puts a Tokenizer's data together; one use.
class Builder {
 public:
  explicit Builder(const TokenizerFiles& files) : config_(read_config(files)) {
    if (files.tokenizer_json) {
      name_ = files.folder + "/tokenizer.json";
      formats::TokenizerJson json = formats::parse_tokenizer_json(*files.tokenizer_json, name_);
      vocabulary_ = std::move(json.vocabulary);
      before_ = std::move(json.before);
      after_ = std::move(json.after);
      pad_token_ = std::move(json.pad_token);
      // GemmaTokenizer lets the configuration's list take the place of this file's.
      if (config_.added) vocabulary_.added = *config_.added;
    } else {
      TRESTLE_REQUIRE_AS(data, files.tokenizer_model,
                         "{} holds no tokenizer (neither tokenizer.json nor tokenizer.model is in "
                         "it). Name the folder of a Gemma tokenizer: in a pipeline's folder it is "
                         "called tokenizer.",
                         files.folder);
      name_ = files.folder + "/tokenizer.model";
      vocabulary_ =
          vocabulary_of(formats::parse_sentencepiece_model(*files.tokenizer_model, name_));
      if (config_.added) {
        vocabulary_.added.insert(vocabulary_.added.end(), config_.added->begin(),
                                 config_.added->end());
      }
    }
    template_from_config_ = !files.tokenizer_json;
  }

  std::unique_ptr<const Tokenizer::Data> build() {
    auto data = std::make_unique<Tokenizer::Data>(Tokenizer::Data{.bpe = Bpe(vocabulary_, name_)});
    Ids ids(vocabulary_.pieces);
    data->texts = std::move(vocabulary_.pieces);
    add_tokens(ids, *data);
    set_named(ids, *data);
    if (template_from_config_) {
      if (config_.add_bos_token) before_.push_back(named_id("bos_token", ids));
      if (config_.add_eos_token) after_.push_back(named_id("eos_token", ids));
    }
    for (const auto* part : {&before_, &after_}) {
      for (const std::int64_t id : *part) {
        TRESTLE_REQUIRE_AS(data, id < std::int64_t(data->texts.size()),
                           "{} is no tokenizer that can be used (its template has the id {}, and "
                           "there are {}). Take the tokenizer of a Gemma model.",
                           name_, id, data->texts.size());
      }
    }
    data->before = std::move(before_);
    data->after = std::move(after_);
    return data;
  }

 private:
  /// The files' list, in which a token beyond the vocabulary gets the next id.
  void add_tokens(Ids& ids, Tokenizer::Data& data) {
    for (const AddedToken& token : vocabulary_.added) {
      const std::int64_t id = ids.add(token.content);
      TRESTLE_REQUIRE_AS(data, token.id < 0 || token.id == id,
                         "{} is no tokenizer that can be used (added token {} of its list comes "
                         "out as {}). Take the tokenizer of a Gemma model, as transformers saves "
                         "it.",
                         name_, token.id, id);
      add_token(token, id, data);
    }
  }

  void add_token(const AddedToken& token, std::int64_t id, Tokenizer::Data& data) {
    if (id == std::int64_t(data.texts.size())) data.texts.push_back(token.content);
    if (token.special) data.special.insert(id);
    if (!seen_.insert(id).second) return;
    if (!token.normalized) {
      data.before_spaces.add(token.content, id);
      return;
    }
    data.after_spaces.add(replaced(token.content, " ", kSpaceMark), id);
  }

  /// The tokens with names, which have to be known texts.
  void set_named(const Ids& ids, Tokenizer::Data& data) {
    for (const auto& [name, content] : kNamed) {
      const bool is_stored_pad = name == std::string_view("pad_token") && !pad_token_.empty();
      config_.named.try_emplace(
          name, AddedToken{.content = is_stored_pad ? pad_token_ : content, .special = true});
    }
    for (const auto& [name, token] : config_.named) {
      if (token) add_token(*token, named_id(name, ids), data);
    }
    // One that the list has as well keeps the list's flags.
    for (const AddedToken& token : config_.extra) {
      const std::int64_t id = known(token, "an extra token", ids);
      if (!seen_.contains(id)) add_token(token, id, data);
    }
    if (config_.named.at("pad_token")) data.pad = named_id("pad_token", ids);
  }

  std::int64_t named_id(const std::string& name, const Ids& ids) const {
    const auto& token = config_.named.at(name);
    TRESTLE_REQUIRE_AS(data, token,
                       "{} needs a {} (tokenizer_config.json says that there is none, and asks for "
                       "it). Correct that file.",
                       name_, printable(name));
    return known(*token, name, ids);
  }

  std::int64_t known(const AddedToken& token, std::string_view name, const Ids& ids) const {
    const auto id = ids.find(token.content);
    TRESTLE_REQUIRE_AS(
        data, id,
        "{} does not fit the files beside it ({} is none of its pieces: {}). Take all "
        "files from one Gemma tokenizer.",
        name_, printable(name), printable(token.content));
    return *id;
  }

  /// For a message: tokens and their names may hold line breaks, and whole chapters.
  static std::string printable(std::string_view text) {
    std::string result;
    const std::string_view start = text.substr(0, kMostShownBytes);
    for (const char c : start.substr(0, valid_utf8_bytes(start))) {
      const auto byte = static_cast<unsigned char>(c);
      result += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
    }
    return result;
  }

  TokenizerConfig config_;
  formats::BpeVocabulary vocabulary_;
  std::vector<std::int64_t> before_, after_;
  std::string pad_token_;
  std::string name_;
  bool template_from_config_ = false;
  std::unordered_set<std::int64_t> seen_;
};

}  // namespace

Tokenizer Tokenizer::from_folder(const fs::path& folder) {
  std::error_code ignored;
  TRESTLE_REQUIRE_AS(
      data, fs::is_directory(folder, ignored),
      "{} is no folder (a tokenizer's holds tokenizer.json or tokenizer.model). Name "
      "one that is.",
      folder.string());
  TokenizerFiles files{.folder = folder.string()};
  files.tokenizer_json = read_if_there(folder / "tokenizer.json");
  if (!files.tokenizer_json) files.tokenizer_model = read_if_there(folder / "tokenizer.model");
  files.tokenizer_config = read_if_there(folder / "tokenizer_config.json");
  files.special_tokens_map = read_if_there(folder / "special_tokens_map.json");
  return Tokenizer(files);
}

Tokenizer::Tokenizer(const TokenizerFiles& files) : data_(Builder(files).build()) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

}  // namespace trestle::models::text
