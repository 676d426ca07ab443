#include "models/sana/transformer.h"

#include "base/error.h"
#include "models/nn/activations.h"
#include "models/nn/checkpointed_call.h"
#include "models/nn/fused.h"
#include "models/nn/gated_conv.h"
#include "models/nn/modulation.h"

#include <ATen/ATen.h>

#include <any>
#include <cmath>
#include <optional>

namespace trestle::models::sana {
namespace {

using nn::Bias;
using Affine = nn::LayerNorm::Affine;

constexpr std::int64_t kTimeChannels = 256;
constexpr double kCaptionNormEpsilon = 1e-5;
constexpr double kOutNormEpsilon = 1e-6;
constexpr double kMaskedBias = -10000.0;

at::Tensor table(const nn::Scope& scope, std::int64_t rows, std::int64_t dim) {
  return scope.parameter("scale_shift_table", {rows, dim},
                         nn::Init::normal(1.0 / std::sqrt(double(dim))));
}

std::vector<SanaBlock> make_blocks(const nn::Scope& scope, const SanaConfig& config) {
  std::vector<SanaBlock> blocks;
  blocks.reserve(config.num_layers);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    blocks.emplace_back(scope / "transformer_blocks" / i, config);
  }
  return blocks;
}

/// What a block needs besides tensors, kept for backward where it recomputes the block.
struct BlockSetting {
  std::int64_t rows, columns;
  nn::CallContext call;
};

}  // namespace

GluMbConv::GluMbConv(const nn::Scope& scope, const SanaConfig& config)
    : conv_inverted(scope / "conv_inverted", config.inner_dim(), 2 * config.mlp_hidden(),
                    Bias::yes),
      conv_depth(scope / "conv_depth", 2 * config.mlp_hidden()),
      conv_point(scope / "conv_point", config.mlp_hidden(), config.inner_dim(), Bias::no) {}

at::Tensor GluMbConv::operator()(const at::Tensor& tokens_bnd, std::int64_t height,
                                 std::int64_t width, const nn::CallContext& call) const {
  if (nn::runs_fused(tokens_bnd)) {
    const at::Tensor wide = conv_inverted.without_bias(tokens_bnd, call);
    return conv_point(
        nn::gated_conv(wide, conv_inverted.bias, conv_depth.weight, conv_depth.bias, height, width),
        call);
  }
  const at::Tensor wide = nn::silu(conv_inverted(tokens_bnd, call));  // [B, N, 2 hidden]
  const at::Tensor mixed = conv_depth(wide, height, width);           // [B, N, 2 hidden]
  return conv_point(nn::gated_silu(mixed), call);                     // [B, N, D]
}

SanaBlock::SanaBlock(const nn::Scope& scope, const SanaConfig& config)
    : scale_shift_table(table(scope, 6, config.inner_dim())),
      norm1(scope / "norm1", config.inner_dim(), config.norm_eps, Affine::no),
      attn1(scope / "attn1", config),
      norm2(scope / "norm2", config.inner_dim(), config.norm_eps,
            config.norm_elementwise_affine ? Affine::yes : Affine::no),
      attn2(scope / "attn2", config),
      ff(scope / "ff", config) {}

at::Tensor SanaBlock::operator()(const at::Tensor& tokens_bnd, const at::Tensor& text_bld,
                                 const at::Tensor& text_bias_b11l, const at::Tensor& modulation_b6d,
                                 std::int64_t height, std::int64_t width,
                                 const nn::CallContext& call) const {
  const auto m = (scale_shift_table.unsqueeze(0) + modulation_b6d).chunk(6, 1);  // each [B, 1, D]
  const at::Tensor &shift_attn = m[0], &scale_attn = m[1], &gate_attn = m[2];
  const at::Tensor &shift_ff = m[3], &scale_ff = m[4], &gate_ff = m[5];

  at::Tensor x = tokens_bnd;
  const at::Tensor calm = nn::modulate(norm1, x, shift_attn, scale_attn).to(x.dtype());
  x = nn::gated_add(x, gate_attn, attn1(calm, call));
  x = attn2(x, text_bld, text_bias_b11l, call) + x;  // neither normed nor gated
  const at::Tensor fed = ff(nn::modulate(norm2, x, shift_ff, scale_ff), height, width, call);
  return nn::gated_add(x, gate_ff, fed);
}

SanaTransformer::SanaTransformer(const SanaConfig& config, const nn::Scope& scope)
    : config_((require_supported(config, "Sana configuration"), config)),
      scale_shift_table_(table(scope, 2, config.inner_dim())),
      patch_embed_(scope / "patch_embed" / "proj", config),
      timestep_embedder_(scope / "time_embed" / "emb" / "timestep_embedder", kTimeChannels,
                         config.inner_dim()),
      time_linear_(scope / "time_embed" / "linear", config.inner_dim(), 6 * config.inner_dim(),
                   Bias::yes),
      caption_projection_(scope / "caption_projection", config.caption_channels,
                          config.inner_dim()),
      caption_norm_(scope / "caption_norm", config.inner_dim(), kCaptionNormEpsilon),
      blocks_(make_blocks(scope, config)),
      norm_out_(scope / "norm_out", config.inner_dim(), kOutNormEpsilon, Affine::no),
      proj_out_(scope / "proj_out", config.inner_dim(),
                config.patch_size * config.patch_size * config.output_channels(), Bias::yes) {}

SanaPatchEmbed::SanaPatchEmbed(const nn::Scope& scope, const SanaConfig& config)
    : patch_size(config.patch_size),
      base_size(config.sample_size / config.patch_size),
      interpolation_scale(config.interpolation_scale) {
  const std::int64_t fan_in = config.in_channels * patch_size * patch_size;
  const auto init = nn::Init::uniform(1.0 / std::sqrt(double(fan_in)));
  weight = scope.parameter("weight",
                           {config.inner_dim(), config.in_channels, patch_size, patch_size}, init);
  bias = scope.parameter("bias", {config.inner_dim()}, init);
  adapters = scope.layer(weight);
}

at::Tensor SanaPatchEmbed::operator()(const at::Tensor& latents_bchw,
                                      const nn::CallContext& call) const {
  const std::int64_t p = patch_size;
  const std::int64_t rows = latents_bchw.size(2) / p, columns = latents_bchw.size(3) / p;
  // A stride-p convolution is a Linear over the pixels of each patch.
  const at::Tensor patches = latents_bchw.unflatten(3, {columns, p})
                                 .unflatten(2, {rows, p})      // [B, C, rows, p, columns, p]
                                 .permute({0, 2, 4, 1, 3, 5})  // [B, rows, columns, C, p, p]
                                 .flatten(3)
                                 .flatten(1, 2);  // [B, N, C p p]
  const at::Tensor tokens =
      nn::adapted(*adapters, patches, at::linear(patches, weight.flatten(1), bias), bias, call);
  if (!interpolation_scale) return tokens;
  const at::Tensor positions =
      nn::sincos_positions(weight.size(0), rows, columns, base_size, *interpolation_scale);
  return (tokens + positions.to(tokens.device())).to(tokens.scalar_type());
}

at::Tensor SanaTransformer::unpatchify(const at::Tensor& tokens_bnc, std::int64_t rows,
                                       std::int64_t columns) const {
  const std::int64_t p = config_.patch_size;
  return tokens_bnc.reshape({tokens_bnc.size(0), rows, columns, p, p, -1})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({tokens_bnc.size(0), -1, rows * p, columns * p});
}

at::Tensor SanaTransformer::operator()(const SanaInput& input) const {
  const at::Tensor& latents = input.latents_bchw;
  const auto dtype = latents.scalar_type();
  const std::int64_t p = config_.patch_size;
  TRESTLE_ASSERT(latents.dim() == 4 && latents.size(1) == config_.in_channels &&
                     latents.size(2) % p == 0 && latents.size(3) % p == 0,
                 "latents of shape [{}] do not fit in_channels {} and patch_size {}",
                 fmt::join(latents.sizes(), ", "), config_.in_channels, p);
  const std::int64_t rows = latents.size(2) / p, columns = latents.size(3) / p;

  // The mask is a bias of -10000, not of minus infinity: bf16 rounds it to -9984, as in the
  // reference.
  at::Tensor text_bias;  // [B, 1, 1, L]
  if (input.text_mask_bl.defined()) {
    text_bias = ((1 - input.text_mask_bl.to(dtype)) * kMaskedBias).unsqueeze(1).unsqueeze(1);
  }

  BlockSetting setting{rows, columns, {}};
  if (input.dropout != nullptr) setting.call.dropout = *input.dropout;
  if (input.adapters != nullptr) setting.call.adapters = *input.adapters;
  const nn::CallContext& call = setting.call;

  at::Tensor x = patch_embed_(latents, call);  // [B, N, D]
  const at::Tensor embedded_time = timestep_embedder_(
      nn::timestep_sinusoid(input.timestep_b, kTimeChannels).to(dtype), call);  // [B, D]
  const at::Tensor modulation =
      time_linear_(nn::silu(embedded_time), call).unflatten(1, {6, -1});             // [B, 6, D]
  const at::Tensor text = caption_norm_(caption_projection_(input.text_blc, call));  // [B, L, D]

  const nn::Block block = [this](std::size_t i, const nn::Tensors& tokens,
                                 const nn::Tensors& shared, const std::any& extra) -> nn::Tensors {
    const auto& same = std::any_cast<const BlockSetting&>(extra);
    return {
        blocks_[i](tokens[0], shared[0], shared[1], shared[2], same.rows, same.columns, same.call)};
  };
  x = nn::run_blocks(blocks_.size(), input.checkpoint_every, block, {x},
                     {text, text_bias, modulation}, setting)[0];

  const auto out = (scale_shift_table_.unsqueeze(0) + embedded_time.unsqueeze(1)).chunk(2, 1);
  x = nn::modulate(norm_out_, x, /*shift_b1d=*/out[0], /*scale_b1d=*/out[1]);
  return unpatchify(proj_out_(x, call), rows, columns);  // [B, C_out, h, w]
}

std::string precision_warning(const SanaConfig& config, at::ScalarType dtype) {
  if (dtype != at::kBFloat16 || config.has_qk_norm()) return "";
  return "model.qk_norm is none in bfloat16 (without a norm nothing keeps the queries and keys of "
         "linear attention in the range that 8 bits resolve). Watch the loss, or set model.dtype = "
         "\"float32\".";
}

}  // namespace trestle::models::sana
