// SanaTransformer2DModel: a transformer over latent tokens with linear self-attention, attention to
// text, and a gated depthwise convolution in place of the MLP (Xie et al., "SANA", 2024, and
// "SANA-1.5", 2025; names and shapes are those of diffusers' sana_transformer.py).
//
// Axes: B batch, C latent channels, h w latent sides, N = (h/p)(w/p) tokens, L text rows, D width.
// Tokens stay [B, N, D] from the first projection to the last; no layer permutes memory.
//
//   nn::Parameters parameters(options, Draws(seed));
//   const SanaTransformer model(config, parameters.root());
//   at::Tensor velocity_bchw = model({.latents_bchw = x, .text_blc = e, .timestep_b = t});
//
// LOCAL. STREAM: the current one. THREADS: calls are const and may run at once. With gradient
// checkpointing the model must stay where it is until backward is done.
#pragma once
#include "models/nn/dropout.h"
#include "models/nn/layer_adapters.h"
#include "models/nn/layers.h"
#include "models/sana/config.h"

#include <ATen/core/TensorBody.h>

#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace trestle::models::sana {

using nn::DropoutDraws;

struct SanaInput {
  at::Tensor latents_bchw;
  at::Tensor text_blc;    ///< text embeddings, caption_channels wide
  at::Tensor timestep_b;  ///< 0..1000, any float; the config's timestep_scale already applied
  at::Tensor text_mask_bl = {};              ///< 1 keep, 0 discard; undefined: keep all
  const DropoutDraws* dropout = nullptr;     ///< null: evaluation
  const nn::AdapterSet* adapters = nullptr;  ///< null: none
  std::int64_t checkpoint_every = 0;         ///< blocks that backward recomputes together; 0: none
};

/// The norm of queries or keys over all heads together, as the config's qk_norm has it.
class QkNorm {
 public:
  /// refusals() must have been asked: it names every other word.
  QkNorm(const nn::Scope& scope, const SanaConfig& config, std::int64_t channels);
  /// [..., channels] to the same; as it is where there is no norm.
  at::Tensor operator()(const at::Tensor& x) const;
  /// The fused core of linear attention computes these itself: null where it is none.
  const nn::RmsNorm* rms_norm() const { return std::get_if<nn::RmsNorm>(&norm_); }
  bool fuses() const { return std::holds_alternative<None>(norm_) || rms_norm() != nullptr; }

 private:
  using None = std::monostate;
  struct L2 {};
  using Norm = std::variant<None, nn::RmsNorm, nn::LayerNorm, L2>;
  static Norm make(const nn::Scope& scope, const SanaConfig& config, std::int64_t channels);

  Norm norm_;
};

/// attn1: linear attention with a ReLU kernel; the core runs in fp32 whatever the dtype.
struct LinearAttention {
  LinearAttention(const nn::Scope& scope, const SanaConfig& config);
  at::Tensor operator()(const at::Tensor& tokens_bnd, const nn::CallContext& call) const;
  /// q, k and v one after another, as the fused core reads them, normed if it does not: [B, N, 3D].
  at::Tensor projections(const at::Tensor& tokens_bnd, const nn::CallContext& call) const;

  std::int64_t heads;
  double dropout_probability;
  QkNorm norm_q, norm_k;
  nn::Linear to_q, to_k, to_v, to_out;
  Purpose dropout_purpose;
};

/// attn2: softmax attention from tokens to text.
struct TextAttention {
  TextAttention(const nn::Scope& scope, const SanaConfig& config);
  at::Tensor operator()(const at::Tensor& tokens_bnd, const at::Tensor& text_bld,
                        const at::Tensor& bias_b11l, const nn::CallContext& call) const;

  std::int64_t heads;
  double dropout_probability;
  QkNorm norm_q, norm_k;
  nn::Linear to_q, to_k, to_v, to_out;
  Purpose dropout_purpose;
};

/// ff: 1x1 -> SiLU -> depthwise 3x3 -> a · SiLU(gate) -> 1x1.
struct GluMbConv {
  GluMbConv(const nn::Scope& scope, const SanaConfig& config);
  at::Tensor operator()(const at::Tensor& tokens_bnd, std::int64_t height, std::int64_t width,
                        const nn::CallContext& call) const;

  nn::PointwiseConv conv_inverted;
  nn::DepthwiseConv3x3 conv_depth;
  nn::PointwiseConv conv_point;
};

struct SanaBlock {
  SanaBlock(const nn::Scope& scope, const SanaConfig& config);
  at::Tensor operator()(const at::Tensor& tokens_bnd, const at::Tensor& text_bld,
                        const at::Tensor& text_bias_b11l, const at::Tensor& modulation_b6d,
                        std::int64_t height, std::int64_t width, const nn::CallContext& call) const;

  at::Tensor scale_shift_table;  // [6, D]: shift, scale, gate of attention; the same of ff
  nn::LayerNorm norm1;
  LinearAttention attn1;
  nn::LayerNorm norm2;
  TextAttention attn2;
  GluMbConv ff;
};

/// Latents to tokens: a stride-p convolution, and sine-cosine positions where the config asks.
struct SanaPatchEmbed {
  SanaPatchEmbed(const nn::Scope& scope, const SanaConfig& config);
  at::Tensor operator()(const at::Tensor& latents_bchw, const nn::CallContext& call) const;

  std::int64_t patch_size, base_size;
  std::optional<double> interpolation_scale;
  at::Tensor weight, bias;  // [D, C, p, p], [D]
  nn::AdapterSlot adapters;
};

class SanaTransformer {
 public:
  /// Adds all parameters to `scope`. Throws Error(usage) for configurations that are refused.
  SanaTransformer(const SanaConfig& config, const nn::Scope& scope);

  /// Prediction of shape [B, out_channels, h, w]; h and w must be multiples of the patch size.
  at::Tensor operator()(const SanaInput& input) const;

  const SanaConfig& config() const { return config_; }

 private:
  at::Tensor unpatchify(const at::Tensor& tokens_bnc, std::int64_t rows,
                        std::int64_t columns) const;

  SanaConfig config_;
  at::Tensor scale_shift_table_;  // [2, D]: shift, scale
  SanaPatchEmbed patch_embed_;
  nn::TimestepEmbedding timestep_embedder_;
  nn::Linear time_linear_;
  nn::TextProjection caption_projection_;
  nn::RmsNorm caption_norm_;
  std::vector<SanaBlock> blocks_;
  nn::LayerNorm norm_out_;
  nn::Linear proj_out_;
};

/// What is risky about running the configuration in this dtype; empty: nothing.
std::string precision_warning(const SanaConfig& config, at::ScalarType dtype);

}  // namespace trestle::models::sana
