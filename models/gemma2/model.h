// Gemma2Model as a text encoder: token ids to the hidden states after the final norm ("Gemma 2",
// 2024; names and shapes are those of transformers' modeling_gemma2.py, eager attention).
//
// Axes: B batch, N tokens, D width, H query heads, K key-value heads, E channels of a head.
// Where the library computes in fp32 whatever the dtype (norms, rotary angles, softmax), so does
// this. The one known trap: a model *converted* to bf16 has its rotary frequencies rounded; here
// they are fp32 always, as in a model that was loaded in bf16.
//
//   nn::Parameters parameters(options, Draws(0));
//   const Gemma2Model encoder(config, parameters.root());
//   at::Tensor states_bnd = encoder(ids_bn, mask_bn);
//
// LOCAL. STREAM: the current one. THREADS: calls are const and may run at once.
#pragma once
#include "models/gemma2/config.h"
#include "models/nn/layers.h"

#include <ATen/core/TensorBody.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::gemma2 {

enum class Activation { gelu_tanh, gelu, silu };

/// transformers' names; none where this file has no such activation.
std::optional<Activation> activation_named(std::string_view name);

/// x / sqrt(mean(x²) + epsilon) · (1 + weight), in fp32.
struct OffsetRmsNorm {
  OffsetRmsNorm(const nn::Scope& scope, std::int64_t channels, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;

  at::Tensor weight;
  double epsilon;
};

/// Cosines and sines of the rotary angles, [1, 1, N, E] each.
struct Rotation {
  Rotation(const Gemma2Config& config, std::int64_t tokens, const at::TensorOptions& options);
  at::Tensor operator()(const at::Tensor& x_bhne) const;

  at::Tensor cosines, sines;
};

struct Attention {
  Attention(const nn::Scope& scope, const Gemma2Config& config);
  /// `bias` [B or 1, 1, N, N] in fp32: 0 where a token may look, the lowest float where not.
  at::Tensor operator()(const at::Tensor& x_bnd, const Rotation& rotate,
                        const at::Tensor& bias_b1nn) const;

  std::int64_t heads, key_heads;
  double scale;
  std::optional<double> soft_cap;
  nn::Linear q_proj, k_proj, v_proj, o_proj;
};

struct GatedMlp {
  GatedMlp(const nn::Scope& scope, const Gemma2Config& config);
  at::Tensor operator()(const at::Tensor& x_bnd) const;

  Activation activation;
  nn::Linear gate_proj, up_proj, down_proj;
};

struct DecoderLayer {
  DecoderLayer(const nn::Scope& scope, const Gemma2Config& config, bool slides);
  at::Tensor operator()(const at::Tensor& x_bnd, const Rotation& rotate,
                        const at::Tensor& bias_b1nn) const;

  bool slides;
  Attention self_attn;
  GatedMlp mlp;
  OffsetRmsNorm input_layernorm, post_attention_layernorm;
  OffsetRmsNorm pre_feedforward_layernorm, post_feedforward_layernorm;
};

class Gemma2Model {
 public:
  /// Adds all parameters to `scope`. Throws Error(usage) for configurations that are refused.
  Gemma2Model(const Gemma2Config& config, const nn::Scope& scope);

  /// Hidden states [B, N, D] of ids [B, N] (int64). mask [B, N]: 0 where nobody may look (any
  /// pattern; undefined: nowhere). A token that may look nowhere at all, such as padding on the
  /// left, sees everything alike, as in the library in fp32. Positions count through padding, too.
  /// Ids outside the vocabulary are Error(data) on the CPU.
  at::Tensor operator()(const at::Tensor& ids_bn, const at::Tensor& mask_bn = {}) const;

  const Gemma2Config& config() const { return config_; }

 private:
  Gemma2Config config_;
  at::Tensor embed_tokens_;  // [vocabulary, D]
  std::vector<DecoderLayer> layers_;
  OffsetRmsNorm norm_;
};

/// The parameter that a stored tensor fills. Gemma2Model's files say `layers.0. ...`; those of
/// Gemma2ForCausalLM put `model.` in front, and may hold the head's `lm_head.weight`, which belongs
/// to no parameter (none: leave it out).
std::optional<std::string> reference_name(std::string_view stored);

}  // namespace trestle::models::gemma2
