#include "formats/tokenizer_config.h"

#include "base/error.h"
#include "formats/added_tokens.h"
#include "formats/strict_json.h"

#include <charconv>
#include <system_error>

namespace trestle::formats {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 16;  // chat templates and bookkeeping may nest

/// A token by its text alone, or described.
AddedToken read_special_token(const json& value, std::string_view key) {
  if (value.is_string() && !value.get_ref<const std::string&>().empty()) {
    return {.content = value.get<std::string>(), .special = true};
  }
  if (!value.is_object()) throw JsonProblem(fmt::format("{} is no token", shown(key)));
  AddedToken token = read_added_token(value);
  token.special = true;
  return token;
}

std::int64_t id_of(const std::string& key) {
  std::int32_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0) {
    throw JsonProblem(fmt::format("\"added_tokens_decoder\" has the id {}", shown(key)));
  }
  return id;
}

std::vector<AddedToken> read_decoder(const json& stored) {
  if (!stored.is_object()) throw JsonProblem("\"added_tokens_decoder\" is not an object");
  std::map<std::int64_t, AddedToken> by_id;
  for (const auto& [key, value] : stored.items()) {
    AddedToken token = read_added_token(value);
    token.id = id_of(key);
    by_id[token.id] = token;
  }
  std::vector<AddedToken> tokens;
  for (const auto& [id, token] : by_id) tokens.push_back(token);
  return tokens;
}

/// Named and extra tokens, which both files hold.
void read_tokens(const json& file, TokenizerConfig& into) {
  for (const auto& [key, value] : file.items()) {
    if (key == "extra_special_tokens" || key == "additional_special_tokens") {
      if (value.is_null()) continue;
      if (!value.is_array() && !value.is_object()) {
        throw JsonProblem(fmt::format("\"{}\" is not a list", key));
      }
      for (const json& token : value) into.extra.push_back(read_special_token(token, key));
    } else if (key.ends_with("_token") && !key.starts_with("add_") && !value.is_boolean()) {
      into.named[key] = value.is_null() ? std::optional<AddedToken>()
                                        : std::optional(read_special_token(value, key));
    }
  }
}

bool flag_at(const json& file, const char* key) {
  const auto found = file.find(key);
  if (found == file.end() || found->is_null()) return false;
  if (!found->is_boolean()) throw JsonProblem(fmt::format("\"{}\" is not true or false", key));
  return found->get<bool>();
}

void refuse_what_is_not_done(const json& file) {
  for (const char* key : {"split_special_tokens", "add_prefix_space"}) {
    if (flag_at(file, key)) throw JsonProblem(fmt::format("it sets \"{}\"", key));
  }
  const auto side = file.find("truncation_side");
  if (side != file.end() && *side != "right") {
    throw JsonProblem("it cuts off texts on another side than the right");
  }
  const auto type = file.find("tokenizer_class");
  if (type != file.end() && *type != "GemmaTokenizer" && *type != "GemmaTokenizerFast") {
    throw JsonProblem(fmt::format(
        "its tokenizer_class is {}, not GemmaTokenizer",
        type->is_string() ? shown(type->get<std::string>()) : std::string(type->type_name())));
  }
}

template <class Read>
void read_file(std::string_view text, std::string_view name, Read&& read) {
  try {
    read(parse_json_object(text, kMaxDepth));
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data,
         "{} cannot be used ({}). Take the tokenizer of a Gemma model, as transformers saves it.",
         name, problem.what());
  }
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view name) {
  TokenizerConfig config;
  read_file(text, name, [&](const json& file) {
    refuse_what_is_not_done(file);
    config.add_bos_token = flag_at(file, "add_bos_token");
    config.add_eos_token = flag_at(file, "add_eos_token");
    read_tokens(file, config);
    const auto decoder = file.find("added_tokens_decoder");
    if (decoder != file.end()) config.added = read_decoder(*decoder);
  });
  return config;
}

void add_special_tokens_map(std::string_view text, std::string_view name, TokenizerConfig& config) {
  read_file(text, name, [&](const json& file) { read_tokens(file, config); });
}

}  // namespace trestle::formats
