#include "formats/lora_metadata.h"

#include "base/error.h"
#include "formats/lora_names.h"
#include "formats/strict_json.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <utility>

namespace trestle::formats {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 8;
constexpr std::string_view kPrefix = "transformer.";
constexpr std::int64_t kMostRank = 65536;

// Bookkeeping of peft, and rules that choose layers: which those are, the tensors say.
constexpr std::array kWithoutEffect = {"auto_mapping",
                                       "base_model_name_or_path",
                                       "ensure_weight_tying",
                                       "exclude_modules",
                                       "inference_mode",
                                       "layers_pattern",
                                       "layers_to_transform",
                                       "megatron_core",
                                       "peft_version",
                                       "qalora_group_size",
                                       "revision",
                                       "runtime_config",
                                       "task_type"};

bool says_nothing(const json& value) {
  return value.is_null() || value == json(false) || value == json("none") ||
         (value.is_structured() && value.empty());
}

bool flag(const std::string& key, const json& value) {
  if (value.is_null()) return false;
  if (!value.is_boolean()) throw JsonProblem(fmt::format("\"{}\" is neither true nor false", key));
  return value.get<bool>();
}

std::int64_t rank_in(const std::string& key, const json& value) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() >= 1 &&
      value.get<std::uint64_t>() <= std::uint64_t(kMostRank))
    return value.get<std::int64_t>();
  throw JsonProblem(fmt::format("{} is not a rank from 1 to {}", shown(key), kMostRank));
}

double alpha_in(const std::string& key, const json& value) {
  const double alpha = value.is_number() ? value.get<double>() : 0;
  if (alpha > 0 && std::isfinite(alpha)) return alpha;
  throw JsonProblem(fmt::format("{} is not a number above 0", shown(key)));
}

/// With "^" in front the pattern is the whole name.
bool matches(std::string_view pattern, std::string_view layer) {
  return pattern.starts_with("^") ? layer == pattern.substr(1) : names_layer(pattern, layer);
}

template <class Value, class Read>
std::map<std::string, Value> pattern_in(const std::string& key, const json& value, Read&& read) {
  std::map<std::string, Value> found;
  if (value.is_null()) return found;
  if (!value.is_object()) throw JsonProblem(fmt::format("\"{}\" is not an object", key));
  for (const auto& [pattern, element] : value.items()) {
    // To peft these are regular expressions; names are all that is ever written by it.
    if (pattern.empty() || pattern.find_first_of("*+?()[]{}|\\$") != pattern.npos ||
        pattern.find('^', 1) != pattern.npos) {
      throw JsonProblem(fmt::format("\"{}\" has the pattern {}, and only names are read there", key,
                                    shown(pattern)));
    }
    found[pattern] = read(pattern, element);
  }
  return found;
}

bool is_gaussian(const json& value) {
  if (value.is_null() || value.is_boolean()) return false;
  std::string name = value.is_string() ? value.get<std::string>() : "";
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name == "gaussian") return true;
  throw JsonProblem(
      fmt::format("\"init_lora_weights\" is {}, and such a beginning may have changed the base's "
                  "weights, which the file does not hold",
                  shown(value.is_string() ? value.get<std::string>() : value.type_name())));
}

std::vector<std::string> targets_in(const json& value) {
  std::vector<std::string> targets;
  if (value.is_null() || value.is_string()) return targets;
  if (!value.is_array()) throw JsonProblem("\"target_modules\" is neither a list nor a text");
  for (const json& element : value) {
    if (!element.is_string()) throw JsonProblem("\"target_modules\" holds more than texts");
    targets.push_back(element.get<std::string>());
  }
  return targets;
}

void read_field(LoraMetadata& metadata, const std::string& key, const json& value) {
  if (key == "r") {
    metadata.rank = rank_in(key, value);
  } else if (key == "lora_alpha") {
    metadata.alpha = alpha_in(key, value);
  } else if (key == "use_rslora") {
    metadata.use_rslora = flag(key, value);
  } else if (key == "use_dora") {
    metadata.use_dora = flag(key, value);
  } else if (key == "lora_dropout") {
    const double dropout = value.is_number() ? value.get<double>() : value.is_null() ? 0 : -1;
    if (!(dropout >= 0 && dropout < 1))
      throw JsonProblem("\"lora_dropout\" is not a number from 0 to below 1");
    metadata.dropout = dropout;
  } else if (key == "init_lora_weights") {
    metadata.gaussian = is_gaussian(value);
  } else if (key == "target_modules") {
    metadata.targets = targets_in(value);
  } else if (key == "rank_pattern") {
    metadata.ranks = pattern_in<std::int64_t>(key, value, rank_in);
  } else if (key == "alpha_pattern") {
    metadata.alphas = pattern_in<double>(key, value, alpha_in);
  } else if (key == "peft_type") {
    if (value != json("LORA"))
      throw JsonProblem(fmt::format("\"peft_type\" is {}, not \"LORA\"", shown(value.dump())));
  } else if (std::ranges::count(kWithoutEffect, key) == 0 && !says_nothing(value)) {
    throw JsonProblem(fmt::format("{} is set, which is not supported", shown(key)));
  }
}

LoraMetadata parse(std::string_view text) {
  const json stored = parse_json_object(text, kMaxDepth);
  const bool prefixed = std::ranges::any_of(
      stored.items(), [](const auto& field) { return field.key().starts_with(kPrefix); });
  LoraMetadata metadata;
  bool has_rank = false, has_alpha = false;
  for (const auto& [name, value] : stored.items()) {
    if (prefixed && !name.starts_with(kPrefix)) {
      throw JsonProblem(
          fmt::format("{} belongs to another model than the transformer", shown(name)));
    }
    const std::string key = prefixed ? name.substr(kPrefix.size()) : name;
    read_field(metadata, key, value);
    has_rank |= key == "r";
    has_alpha |= key == "lora_alpha";
  }
  if (!has_rank || !has_alpha)
    throw JsonProblem(fmt::format("\"{}\" is missing", has_rank ? "lora_alpha" : "r"));
  return metadata;
}

template <class Value>
Value of_layer(const std::map<std::string, Value>& patterns, std::string_view layer, Value other) {
  for (const auto& [pattern, value] : patterns) {
    if (matches(pattern, layer)) return value;
  }
  return other;
}

/// As Python writes an int where the number is one.
json number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return json(std::int64_t(value));
  return json(value);
}

}  // namespace

std::int64_t LoraMetadata::rank_of(std::string_view layer) const {
  return of_layer(ranks, layer, rank);
}

double LoraMetadata::alpha_of(std::string_view layer) const {
  return of_layer(alphas, layer, alpha);
}

LoraMetadata parse_lora_metadata(std::string_view text, std::string_view file) {
  try {
    return parse(text);
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data,
         "{}: {} is not what a LoRA can be read by ({}). Save the adapter again without that.",
         file, kLoraMetadataKey, problem.what());
  }
}

std::string to_text(const LoraMetadata& metadata) {
  json stored = json::object();
  const auto put = [&](const char* key, json value) {
    stored[std::string(kPrefix) + key] = std::move(value);
  };
  put("bias", "none");
  put("init_lora_weights", metadata.gaussian ? json("gaussian") : json(true));
  put("lora_alpha", number(metadata.alpha));
  put("lora_dropout", metadata.dropout);
  put("r", metadata.rank);
  put("target_modules", metadata.targets);
  if (metadata.use_rslora) put("use_rslora", true);
  if (metadata.use_dora) put("use_dora", true);
  if (!metadata.ranks.empty()) put("rank_pattern", metadata.ranks);
  if (!metadata.alphas.empty()) {
    json alphas = json::object();
    for (const auto& [pattern, alpha] : metadata.alphas) alphas[pattern] = number(alpha);
    put("alpha_pattern", std::move(alphas));
  }
  return stored.dump(2, ' ', /*ensure_ascii=*/true);
}

}  // namespace trestle::formats
