#include "models/gemma2/model.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <utility>

namespace trestle::models::gemma2 {
namespace {

using nn::Bias;

Bias attention_bias(const Gemma2Config& config) {
  return config.attention_bias ? Bias::yes : Bias::no;
}

at::Tensor activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::gelu:
      return at::gelu(x);
    case Activation::silu:
      return at::silu(x);
  }
  return {};
}

/// Each key-value head `times` times in a row: [B, K, N, E] -> [B, K times, N, E].
at::Tensor repeat_heads(const at::Tensor& x_bkne, std::int64_t times) {
  if (times == 1) return x_bkne;
  return x_bkne.unsqueeze(2).expand({-1, -1, times, -1, -1}).flatten(1, 2);
}

/// Where each token may look: at itself and what came before, `window` tokens in all at most.
at::Tensor visible(std::int64_t tokens, std::int64_t window, at::Device device) {
  const at::Tensor place = at::arange(tokens, at::TensorOptions(at::kLong).device(device));
  const at::Tensor back_nn = place.unsqueeze(1) - place.unsqueeze(0);
  return at::bitwise_and(back_nn >= 0, back_nn < window);
}

/// Visibility as a bias of logits, one for the whole batch unless there is a mask. Not minus
/// infinity: a row of nothing else would be NaN.
at::Tensor bias_of(const at::Tensor& visible_nn, const at::Tensor& mask_bn) {
  at::Tensor seen = visible_nn.unsqueeze(0).unsqueeze(0);
  if (mask_bn.defined()) {
    seen = at::bitwise_and(seen, (mask_bn != 0).unsqueeze(1).unsqueeze(1));
  }
  return at::bitwise_not(seen).to(at::kFloat) * std::numeric_limits<float>::lowest();
}

at::Tensor make_embeddings(const nn::Scope& scope, const Gemma2Config& config) {
  const at::Tensor weight = scope.parameter("weight", {config.vocab_size, config.hidden_size},
                                            nn::Init::normal(config.initializer_range));
  if (config.pad_token_id) weight.detach().select(0, *config.pad_token_id).zero_();
  return weight;
}

/// Rows of the embeddings. The meta device, where torch has no such look-up, gets their shape.
at::Tensor look_up(const at::Tensor& weight, const at::Tensor& ids_bn, const Gemma2Config& config) {
  if (weight.is_meta()) {
    return at::empty({ids_bn.size(0), ids_bn.size(1), weight.size(1)},
                     weight.options().requires_grad(false));
  }
  return at::embedding(weight, ids_bn, config.pad_token_id.value_or(-1));
}

std::vector<DecoderLayer> make_layers(const nn::Scope& scope, const Gemma2Config& config) {
  std::vector<DecoderLayer> layers;
  layers.reserve(config.num_hidden_layers);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers.emplace_back(scope / i, config, config.slides(i));
  }
  return layers;
}

}  // namespace

std::optional<Activation> activation_named(std::string_view name) {
  if (name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu" || name == "swish") return Activation::silu;
  return std::nullopt;
}

OffsetRmsNorm::OffsetRmsNorm(const nn::Scope& scope, std::int64_t channels, double eps)
    : weight(scope.parameter("weight", {channels}, nn::Init::zeros())), epsilon(eps) {}

at::Tensor OffsetRmsNorm::operator()(const at::Tensor& x) const {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor calm = wide * at::rsqrt(wide.pow(2).mean(-1, /*keepdim=*/true) + epsilon);
  return (calm * (1.0 + weight.to(at::kFloat))).to(x.scalar_type());
}

Rotation::Rotation(const Gemma2Config& config, std::int64_t tokens,
                   const at::TensorOptions& options) {
  // Made on the CPU wherever the model is: the library's frequencies are, and powers differ in the
  // last bit between devices.
  const at::TensorOptions wide(at::kFloat);
  const at::Tensor exponents = at::arange(0, config.head_dim, 2, wide) / double(config.head_dim);
  const at::Tensor frequencies = at::reciprocal(at::pow(config.rope_theta, exponents));
  const at::Tensor places = at::arange(tokens, wide.device(options.device()));
  const at::Tensor half_ne = places.unsqueeze(1) * frequencies.to(options.device()).unsqueeze(0);
  const at::Tensor angles = at::cat({half_ne, half_ne}, 1).unsqueeze(0).unsqueeze(0);
  cosines = angles.cos().to(options);
  sines = angles.sin().to(options);
}

at::Tensor Rotation::operator()(const at::Tensor& x_bhne) const {
  const auto halves = x_bhne.chunk(2, 3);
  return x_bhne * cosines + at::cat({-halves[1], halves[0]}, 3) * sines;
}

Attention::Attention(const nn::Scope& scope, const Gemma2Config& config)
    : heads(config.num_attention_heads),
      key_heads(config.num_key_value_heads),
      scale(std::pow(double(config.query_pre_attn_scalar), -0.5)),
      soft_cap(config.attn_logit_softcapping),
      q_proj(scope / "q_proj", config.hidden_size, heads * config.head_dim, attention_bias(config)),
      k_proj(scope / "k_proj", config.hidden_size, key_heads * config.head_dim,
             attention_bias(config)),
      v_proj(scope / "v_proj", config.hidden_size, key_heads * config.head_dim,
             attention_bias(config)),
      o_proj(scope / "o_proj", heads * config.head_dim, config.hidden_size,
             attention_bias(config)) {}

at::Tensor Attention::operator()(const at::Tensor& x_bnd, const Rotation& rotate,
                                 const at::Tensor& bias_b1nn) const {
  const auto split = [](const at::Tensor& x, std::int64_t count) {
    return x.unflatten(2, {count, -1}).transpose(1, 2);  // [B, count, N, E]
  };
  const at::Tensor q_bhne = rotate(split(q_proj(x_bnd), heads));
  const at::Tensor k_bkne = rotate(split(k_proj(x_bnd), key_heads));
  const at::Tensor v_bkne = split(v_proj(x_bnd), key_heads);
  const at::Tensor k_bhne = repeat_heads(k_bkne, heads / key_heads);
  const at::Tensor v_bhne = repeat_heads(v_bkne, heads / key_heads);

  at::Tensor logits_bhnn = at::matmul(q_bhne, k_bhne.transpose(2, 3)) * scale;
  if (soft_cap) logits_bhnn = at::tanh(logits_bhnn / *soft_cap) * *soft_cap;
  const at::Tensor weights_bhnn =
      at::softmax(logits_bhnn.to(at::kFloat) + bias_b1nn, -1).to(x_bnd.scalar_type());
  return o_proj(at::matmul(weights_bhnn, v_bhne).transpose(1, 2).flatten(2));
}

GatedMlp::GatedMlp(const nn::Scope& scope, const Gemma2Config& config)
    : activation(*activation_named(config.hidden_activation)),
      gate_proj(scope / "gate_proj", config.hidden_size, config.intermediate_size, Bias::no),
      up_proj(scope / "up_proj", config.hidden_size, config.intermediate_size, Bias::no),
      down_proj(scope / "down_proj", config.intermediate_size, config.hidden_size, Bias::no) {}

at::Tensor GatedMlp::operator()(const at::Tensor& x_bnd) const {
  return down_proj(activate(activation, gate_proj(x_bnd)) * up_proj(x_bnd));
}

DecoderLayer::DecoderLayer(const nn::Scope& scope, const Gemma2Config& config, bool is_sliding)
    : slides(is_sliding),
      self_attn(scope / "self_attn", config),
      mlp(scope / "mlp", config),
      input_layernorm(scope / "input_layernorm", config.hidden_size, config.rms_norm_eps),
      post_attention_layernorm(scope / "post_attention_layernorm", config.hidden_size,
                               config.rms_norm_eps),
      pre_feedforward_layernorm(scope / "pre_feedforward_layernorm", config.hidden_size,
                                config.rms_norm_eps),
      post_feedforward_layernorm(scope / "post_feedforward_layernorm", config.hidden_size,
                                 config.rms_norm_eps) {}

at::Tensor DecoderLayer::operator()(const at::Tensor& x_bnd, const Rotation& rotate,
                                    const at::Tensor& bias_b1nn) const {
  const at::Tensor attended = self_attn(input_layernorm(x_bnd), rotate, bias_b1nn);
  const at::Tensor x = x_bnd + post_attention_layernorm(attended);
  return x + post_feedforward_layernorm(mlp(pre_feedforward_layernorm(x)));
}

Gemma2Model::Gemma2Model(const Gemma2Config& config, const nn::Scope& scope)
    : config_((require_supported(config, "Gemma 2 configuration"), config)),
      embed_tokens_(make_embeddings(scope / "embed_tokens", config)),
      layers_(make_layers(scope / "layers", config)),
      norm_(scope / "norm", config.hidden_size, config.rms_norm_eps) {}

at::Tensor Gemma2Model::operator()(const at::Tensor& ids_bn, const at::Tensor& mask_bn) const {
  TRESTLE_ASSERT(ids_bn.dim() == 2 && ids_bn.size(1) > 0,
                 "ids of shape [{}] are not [batch, tokens]", fmt::join(ids_bn.sizes(), ", "));
  TRESTLE_ASSERT(!mask_bn.defined() || mask_bn.sizes() == ids_bn.sizes(),
                 "a mask of shape [{}] is not that of the ids", fmt::join(mask_bn.sizes(), ", "));
  if (ids_bn.device().is_cpu() && ids_bn.numel() > 0) {
    const auto lowest = ids_bn.min().item<std::int64_t>();
    const auto highest = ids_bn.max().item<std::int64_t>();
    TRESTLE_REQUIRE_AS(data, lowest >= 0 && highest < config_.vocab_size,
                       "token id {} is not in the vocabulary of {} (the tokenizer belongs to "
                       "another model?). Use the tokenizer beside these weights.",
                       lowest < 0 ? lowest : highest, config_.vocab_size);
  }
  const auto options = embed_tokens_.options();
  const std::int64_t tokens = ids_bn.size(1);
  // The factor is rounded to the model's dtype, as in the library: 55.43 is 55.5 in bf16.
  const at::Tensor factor =
      at::scalar_tensor(std::pow(double(config_.hidden_size), 0.5), options.requires_grad(false));
  at::Tensor x = look_up(embed_tokens_, ids_bn, config_) * factor;  // [B, N, D]

  const Rotation rotate(config_, tokens, options.requires_grad(false));
  const at::Tensor all = bias_of(visible(tokens, tokens, ids_bn.device()), mask_bn);
  const at::Tensor near =
      config_.sliding_window < tokens
          ? bias_of(visible(tokens, config_.sliding_window, ids_bn.device()), mask_bn)
          : all;
  for (const auto& layer : layers_) x = layer(x, rotate, layer.slides ? near : all);
  return norm_(x);
}

std::optional<std::string> reference_name(std::string_view stored) {
  constexpr std::string_view kPrefix = "model.";
  if (stored == "lm_head.weight") return std::nullopt;
  if (stored.substr(0, kPrefix.size()) == kPrefix) stored.remove_prefix(kPrefix.size());
  return std::string(stored);
}

}  // namespace trestle::models::gemma2
