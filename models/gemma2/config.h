// The configuration of transformers' Gemma2Model: every field that Gemma2Config registers, under
// its name. LOCAL, a plain value.
#pragma once
#include "configs/describe.h"
#include "models/refusal.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::gemma2 {

/// Defaults are transformers'. `config_from_json` reads a config.json of the library as it is.
struct Gemma2Config {
  std::int64_t vocab_size = 256000;
  std::int64_t hidden_size = 2304;
  std::int64_t intermediate_size = 9216;
  std::int64_t num_hidden_layers = 26;
  std::int64_t num_attention_heads = 8;
  std::int64_t num_key_value_heads = 4;
  std::int64_t head_dim = 256;
  std::string hidden_activation = "gelu_pytorch_tanh";
  std::int64_t max_position_embeddings = 8192;  ///< not enforced, as in the library
  double initializer_range = 0.02;
  double rms_norm_eps = 1e-6;
  std::optional<std::int64_t> pad_token_id = 0;  ///< its embedding gets no gradient
  std::optional<std::int64_t> bos_token_id = 2;
  double rope_theta = 10000.0;  ///< from rope_parameters, rope_scaling or the old rope_theta
  bool attention_bias = false;
  std::optional<double> attention_dropout = 0.0;  ///< only training the encoder would drop anything
  std::int64_t query_pre_attn_scalar = 256;
  std::int64_t sliding_window = 4096;
  std::vector<std::string> layer_types;  ///< one a layer; empty: sliding, full, sliding, ...
  std::optional<double> final_logit_softcapping = 30.0;  ///< of the language model's head
  std::optional<double> attn_logit_softcapping = 50.0;

  void describe(configs::Fields& fields);

  /// What this implementation (or transformers itself) cannot run: one (field, sentence) each,
  /// empty when the configuration is fine.
  std::vector<Refusal> refusals() const;

  bool slides(std::int64_t layer) const {
    return layer_types.empty() ? layer % 2 == 0 : layer_types[layer] == "sliding_attention";
  }
};

/// From the text of a config.json; `name` is the file's, for errors: Error(data) where it is
/// malformed, Error(usage) where it asks for what no field of the above can say. A key that the
/// library does not know is named in a warning.
Gemma2Config config_from_json(std::string_view text, const std::string& name);

}  // namespace trestle::models::gemma2
