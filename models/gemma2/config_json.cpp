// A Gemma 2 config.json, with the keys that are no plain fields: rotary positions under three
// names, what the library carries for other purposes, and what would change the computation.
#include "models/config_json.h"

#include "base/error.h"
#include "models/gemma2/config.h"

#include <algorithm>
#include <array>

namespace trestle::models::gemma2 {
namespace {

using nlohmann::json;

/// What PreTrainedConfig and Gemma2Config (transformers 5.23) register or read besides the fields,
/// none of which reaches an encoder's numbers; the last lines are text generation's.
constexpr std::array kWithoutEffect = {"transformers_version",
                                       "architectures",
                                       "model_type",
                                       "name_or_path",
                                       "_name_or_path",
                                       "_commit_hash",
                                       "dtype",
                                       "torch_dtype",
                                       "return_dict",
                                       "output_hidden_states",
                                       "output_attentions",
                                       "attn_implementation",
                                       "experts_implementation",
                                       "chunk_size_feed_forward",
                                       "is_encoder_decoder",
                                       "id2label",
                                       "label2id",
                                       "num_labels",
                                       "problem_type",
                                       "eos_token_id",
                                       "tie_word_embeddings",
                                       "use_bidirectional_attention",
                                       "per_layer_config",
                                       "is_causal",
                                       "use_cache",
                                       "assistant_confidence_threshold",
                                       "assistant_lookbehind",
                                       "bad_words_ids",
                                       "begin_suppress_tokens",
                                       "diversity_penalty",
                                       "do_sample",
                                       "early_stopping",
                                       "encoder_no_repeat_ngram_size",
                                       "encoder_repetition_penalty",
                                       "epsilon_cutoff",
                                       "eta_cutoff",
                                       "exponential_decay_length_penalty",
                                       "forced_bos_token_id",
                                       "forced_eos_token_id",
                                       "length_penalty",
                                       "max_length",
                                       "min_length",
                                       "no_repeat_ngram_size",
                                       "num_assistant_tokens",
                                       "num_assistant_tokens_schedule",
                                       "num_beam_groups",
                                       "num_beams",
                                       "num_return_sequences",
                                       "output_scores",
                                       "remove_invalid_values",
                                       "repetition_penalty",
                                       "return_dict_in_generate",
                                       "suppress_tokens",
                                       "target_lookbehind",
                                       "temperature",
                                       "top_k",
                                       "top_p",
                                       "typical_p"};

/// Keys that would change what is computed, unless they say what is computed anyway.
void require_plain(const json& object, const std::string& name) {
  const auto said = [&](const char* key) { return object.contains(key) ? object[key] : json(); };
  const json type = said("model_type");
  TRESTLE_REQUIRE(type.is_null() || type == "gemma2",
                  "{}: model_type = {} is another model (this one is Gemma 2). Name a folder whose "
                  "model_type is \"gemma2\".",
                  name, type.dump());
  const json bidirectional = said("use_bidirectional_attention");
  TRESTLE_REQUIRE(bidirectional.is_null() || bidirectional == false,
                  "{}: use_bidirectional_attention = {} is not supported (transformers' own eager "
                  "attention stays causal under it). Set it to null.",
                  name, bidirectional.dump());
  const json causal = said("is_causal");
  TRESTLE_REQUIRE(causal.is_null() || causal == true,
                  "{}: is_causal = {} is not supported (Gemma 2 attends to what came before). Take "
                  "it out.",
                  name, causal.dump());
  for (const auto* key : {"per_layer_config", "quantization_config"}) {
    TRESTLE_REQUIRE(said(key).is_null(),
                    "{}: {} is not supported (all layers are alike, of plain numbers). Use a model "
                    "without it.",
                    name, key);
  }
}

/// Leaves `rope_theta` as the one key of rotary positions; returns what was said besides.
std::vector<configs::UnknownKey> settle_rotary_positions(json& object, const std::string& name) {
  const json old = taken(object, "rope_scaling"), now = taken(object, "rope_parameters");
  const json theta = taken(object, "rope_theta");
  const bool is_old = !old.is_null() && !(old.is_object() && old.empty());
  const std::string key = is_old ? "rope_scaling" : "rope_parameters";
  json rope = is_old ? old : now;
  if (rope.is_null()) rope = json::object();
  TRESTLE_REQUIRE_AS(data, rope.is_object(),
                     "{}: {} is not an object. Correct it or get the file "
                     "again.",
                     name, key);
  const json type = rope.value("rope_type", rope.value("type", json("default")));
  const bool is_nested =
      std::any_of(rope.begin(), rope.end(), [](const json& value) { return value.is_object(); });
  TRESTLE_REQUIRE(type == "default" && !is_nested,
                  "{}: {} asks for {} (only the default rotary positions are supported, the same "
                  "in all layers, as every released Gemma 2 has them). Use a model with those.",
                  name, key, is_nested ? "other positions a kind of layer" : type.dump());
  if (const json inner = rope.value("rope_theta", theta); !inner.is_null()) {
    object["rope_theta"] = inner;
  }
  std::vector<configs::UnknownKey> unread;
  for (const auto& [inside, value] : rope.items()) {
    if (inside != "rope_type" && inside != "type" && inside != "rope_theta") {
      unread.push_back({fmt::format("{}.{}", key, inside), ""});
    }
  }
  return unread;
}

}  // namespace

Gemma2Config config_from_json(std::string_view text, const std::string& name) {
  json object = config_object(text, name);
  require_plain(object, name);
  std::vector<configs::UnknownKey> unread = settle_rotary_positions(object, name);
  if (object.contains("layer_types") && object["layer_types"].is_null()) {
    object.erase("layer_types");
  }

  const Library library{"transformers' Gemma2Config",
                        {kWithoutEffect.begin(), kWithoutEffect.end()}};
  return fields_of<Gemma2Config>(object, name, library, std::move(unread));
}

}  // namespace trestle::models::gemma2
