#include "base/error.h"
#include "models/nn/fused.h"
#include "models/nn/linear_attention.h"
#include "models/sana/transformer.h"

#include <ATen/ATen.h>

// Axes: B batch, N tokens, L text rows, D width, H heads, E channels of a head.

namespace trestle::models::sana {
namespace {

using nn::Bias;

constexpr double kQkNormEpsilon = 1e-5;
constexpr double kLinearAttentionEpsilon = 1e-15;

std::int64_t cross_channels(const SanaConfig& config) {
  return *config.num_cross_attention_heads * *config.cross_attention_head_dim;
}

}  // namespace

QkNorm::QkNorm(const nn::Scope& scope, const SanaConfig& config, std::int64_t channels)
    : norm_(make(scope, config, channels)) {}

QkNorm::Norm QkNorm::make(const nn::Scope& scope, const SanaConfig& config, std::int64_t channels) {
  if (!config.qk_norm) return None();
  if (*config.qk_norm == kRmsNormAcrossHeads) return nn::RmsNorm(scope, channels, kQkNormEpsilon);
  if (*config.qk_norm == kLayerNormAcrossHeads) {
    return nn::LayerNorm(scope, channels, kQkNormEpsilon, nn::LayerNorm::Affine::yes);
  }
  TRESTLE_ASSERT(*config.qk_norm == kL2Norm, "qk_norm \"{}\" was not refused", *config.qk_norm);
  return L2();
}

at::Tensor QkNorm::operator()(const at::Tensor& x) const {
  if (const auto* rms = std::get_if<nn::RmsNorm>(&norm_)) return (*rms)(x);
  if (const auto* layer = std::get_if<nn::LayerNorm>(&norm_)) return (*layer)(x);
  if (std::holds_alternative<None>(norm_)) return x;
  return x / x.norm(2, -1, /*keepdim=*/true).clamp_min(kQkNormEpsilon);
}

LinearAttention::LinearAttention(const nn::Scope& scope, const SanaConfig& config)
    : heads(config.num_attention_heads),
      dropout_probability(config.dropout),
      norm_q(scope / "norm_q", config, config.inner_dim()),
      norm_k(scope / "norm_k", config, config.inner_dim()),
      to_q(scope / "to_q", config.inner_dim(), config.inner_dim(),
           config.attention_bias ? Bias::yes : Bias::no),
      to_k(scope / "to_k", config.inner_dim(), config.inner_dim(),
           config.attention_bias ? Bias::yes : Bias::no),
      to_v(scope / "to_v", config.inner_dim(), config.inner_dim(),
           config.attention_bias ? Bias::yes : Bias::no),
      to_out(scope / "to_out" / 0, config.inner_dim(), config.inner_dim(), Bias::yes),
      dropout_purpose(scope.name("to_out.1")) {}

at::Tensor LinearAttention::projections(const at::Tensor& tokens_bnd,
                                        const nn::CallContext& call) const {
  const auto is_adapted = [&](const nn::Linear& layer) {
    return nn::has_active(*layer.adapters, call);
  };
  if (!norm_q.fuses() || is_adapted(to_q) || is_adapted(to_k) || is_adapted(to_v)) {
    const auto normed = [](const QkNorm& norm, const at::Tensor& x_bnd) {
      return norm.fuses() ? x_bnd : norm(x_bnd);
    };
    return at::cat({normed(norm_q, to_q(tokens_bnd, call)), normed(norm_k, to_k(tokens_bnd, call)),
                    to_v(tokens_bnd, call)},
                   2);
  }
  const at::Tensor weight = at::cat({to_q.weight, to_k.weight, to_v.weight});
  const std::optional<at::Tensor> bias =
      to_q.bias.defined() ? std::optional(at::cat({to_q.bias, to_k.bias, to_v.bias}))
                          : std::nullopt;
  return at::linear(tokens_bnd, weight, bias);
}

at::Tensor LinearAttention::operator()(const at::Tensor& tokens_bnd,
                                       const nn::CallContext& call) const {
  if (nn::runs_fused(tokens_bnd)) {
    const at::Tensor out_bnd =
        nn::linear_attention(projections(tokens_bnd, call), norm_q.rms_norm(), norm_k.rms_norm(),
                             heads, kLinearAttentionEpsilon);
    return nn::drop(to_out(out_bnd, call), dropout_probability, dropout_purpose,
                    call.dropout_draws());
  }
  const at::Tensor q_bnd = norm_q(to_q(tokens_bnd, call));
  const at::Tensor k_bnd = norm_k(to_k(tokens_bnd, call));
  const at::Tensor v_bnd = to_v(tokens_bnd, call);

  // The layouts below are the reference's, because the fp32 sums of a matrix product depend on them
  // and fp64 runs are compared to more digits than fp32 has.
  const auto split = [&](const at::Tensor& x_bnd) {
    return x_bnd.transpose(1, 2).unflatten(1, {heads, -1});  // [B, H, E, N]
  };
  const at::Tensor q_bhen = at::relu(split(q_bnd)).to(at::kFloat);
  const at::Tensor k_bhne = at::relu(split(k_bnd).transpose(2, 3)).to(at::kFloat);
  // A row of ones under V makes the same product yield the normaliser.
  const at::Tensor v_bhfn = at::constant_pad_nd(split(v_bnd).to(at::kFloat), {0, 0, 0, 1}, 1.0);

  const at::Tensor state_bhfe = at::matmul(v_bhfn, k_bhne);
  const at::Tensor sums_bhfn = at::matmul(state_bhfe, q_bhen);
  const at::Tensor out_bhen =
      sums_bhfn.slice(2, 0, -1) / (sums_bhfn.slice(2, -1) + kLinearAttentionEpsilon);

  const at::Tensor out_bnd = out_bhen.flatten(1, 2).transpose(1, 2).to(tokens_bnd.scalar_type());
  return nn::drop(to_out(out_bnd, call), dropout_probability, dropout_purpose,
                  call.dropout_draws());
}

TextAttention::TextAttention(const nn::Scope& scope, const SanaConfig& config)
    : heads(*config.num_cross_attention_heads),
      dropout_probability(config.dropout),
      norm_q(scope / "norm_q", config, cross_channels(config)),
      norm_k(scope / "norm_k", config, cross_channels(config)),
      to_q(scope / "to_q", config.inner_dim(), cross_channels(config), Bias::yes),
      to_k(scope / "to_k", *config.cross_attention_dim, cross_channels(config), Bias::yes),
      to_v(scope / "to_v", *config.cross_attention_dim, cross_channels(config), Bias::yes),
      to_out(scope / "to_out" / 0, cross_channels(config), config.inner_dim(), Bias::yes),
      dropout_purpose(scope.name("to_out.1")) {}

at::Tensor TextAttention::operator()(const at::Tensor& tokens_bnd, const at::Tensor& text_bld,
                                     const at::Tensor& bias_b11l,
                                     const nn::CallContext& call) const {
  const at::Tensor q_bnd = norm_q(to_q(tokens_bnd, call));
  const at::Tensor k_bld = norm_k(to_k(text_bld, call));
  const at::Tensor v_bld = to_v(text_bld, call);

  const auto split = [&](const at::Tensor& x) {
    return x.unflatten(2, {heads, -1}).transpose(1, 2);  // [B, H, N or L, E]
  };
  std::optional<at::Tensor> bias;
  if (bias_b11l.defined()) bias = bias_b11l.expand({-1, heads, q_bnd.size(1), -1});
  const at::Tensor out_bhne =
      at::scaled_dot_product_attention(split(q_bnd), split(k_bld), split(v_bld), bias);
  const at::Tensor out_bnd = out_bhne.transpose(1, 2).flatten(2);
  return nn::drop(to_out(out_bnd, call), dropout_probability, dropout_purpose,
                  call.dropout_draws());
}

}  // namespace trestle::models::sana
