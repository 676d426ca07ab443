#include "models/gemma2/config.h"

#include "base/error.h"
#include "models/gemma2/model.h"

namespace trestle::models::gemma2 {

void Gemma2Config::describe(configs::Fields& f) {
  f.field("vocab_size", vocab_size, {.help = "tokens of the vocabulary", .min = 1});
  f.field("hidden_size", hidden_size, {.help = "width of the model", .min = 1});
  f.field("intermediate_size", intermediate_size,
          {.help = "hidden width of the gated MLP", .min = 1});
  f.field("num_hidden_layers", num_hidden_layers, {.help = "layers", .min = 1});
  f.field("num_attention_heads", num_attention_heads, {.help = "heads of queries", .min = 1});
  f.field("num_key_value_heads", num_key_value_heads,
          {.help = "heads of keys and values, each read by as many heads of queries", .min = 1});
  f.field("head_dim", head_dim, {.help = "channels of a head", .min = 1});
  f.field("hidden_activation", hidden_activation, {.help = "activation of the gated MLP"});
  f.field("max_position_embeddings", max_position_embeddings,
          {.help = "positions the model was trained on (nothing depends on it)", .min = 1});
  f.field("initializer_range", initializer_range,
          {.help = "standard deviation of fresh embeddings", .min = 0});
  f.field("rms_norm_eps", rms_norm_eps, {.help = "epsilon of the norms", .min = 0});
  f.field("pad_token_id", pad_token_id,
          {.help = "token that fills up; its embedding is not trained", .min = 0});
  f.field("bos_token_id", bos_token_id, {.help = "token that begins a text (the tokenizer's)"});
  f.field("rope_theta", rope_theta, {.help = "base of the rotary positions", .above = 0});
  f.field("attention_bias", attention_bias, {.help = "bias in q, k, v and the output projection"});
  f.field("attention_dropout", attention_dropout,
          {.help = "dropout of attention in training (an encoder has none)", .min = 0, .max = 1});
  f.field("query_pre_attn_scalar", query_pre_attn_scalar,
          {.help = "products of queries and keys are divided by its root", .min = 1});
  f.field("sliding_window", sliding_window,
          {.help = "positions that a sliding layer sees back, its own among them",
           .unit = "tokens",
           .min = 1});
  f.field("layer_types", layer_types,
          {.help = "by layer: sliding_attention or full_attention; none: by turns"});
  f.field("final_logit_softcapping", final_logit_softcapping,
          {.help = "soft cap of the language model's head (an encoder has none)", .above = 0});
  f.field("attn_logit_softcapping", attn_logit_softcapping,
          {.help = "soft cap of attention logits; none: no cap", .above = 0});
}

std::vector<Refusal> Gemma2Config::refusals() const {
  std::vector<Refusal> found;
  const auto refuse = [&](std::string field, std::string message) {
    found.push_back({std::move(field), std::move(message)});
  };
  if (hidden_size % num_attention_heads != 0) {
    refuse("num_attention_heads",
           fmt::format("num_attention_heads = {} does not divide hidden_size = {} (transformers "
                       "refuses that, too). Change one of them.",
                       num_attention_heads, hidden_size));
  }
  if (num_attention_heads % num_key_value_heads != 0) {
    refuse("num_key_value_heads",
           fmt::format("num_key_value_heads = {} does not divide num_attention_heads = {} (each is "
                       "read by as many query heads). Change one of them.",
                       num_key_value_heads, num_attention_heads));
  }
  if (head_dim % 2 != 0) {
    refuse("head_dim",
           fmt::format("head_dim = {} is odd (rotary positions turn pairs of channels). "
                       "Make it even.",
                       head_dim));
  }
  if (pad_token_id && *pad_token_id >= vocab_size) {
    refuse(
        "pad_token_id",
        fmt::format("pad_token_id = {} is not in the vocabulary (vocab_size = {}). Correct one of "
                    "them.",
                    *pad_token_id, vocab_size));
  }
  if (!activation_named(hidden_activation)) {
    refuse("hidden_activation",
           fmt::format("hidden_activation = \"{}\" is not supported (no released Gemma 2 uses it). "
                       "Use gelu_pytorch_tanh, gelu, silu or swish.",
                       hidden_activation));
  }
  if (!layer_types.empty() && std::int64_t(layer_types.size()) != num_hidden_layers) {
    refuse("layer_types", fmt::format("layer_types has {} entries and num_hidden_layers is {} (one "
                                      "a layer). Make them as many.",
                                      layer_types.size(), num_hidden_layers));
  }
  for (const auto& type : layer_types) {
    if (type == "sliding_attention" || type == "full_attention") continue;
    refuse("layer_types", fmt::format("layer_types has \"{}\" (Gemma 2 has no such layer). Use "
                                      "\"sliding_attention\" or \"full_attention\".",
                                      type));
    break;
  }
  return found;
}

}  // namespace trestle::models::gemma2
