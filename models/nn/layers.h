// Layers that several model families share. Axes: B batch, N or L tokens, C or D channels.
//
// A layer is a plain value that holds its parameters and is called like a function; constructing it
// adds the parameters to a Scope under the names PyTorch's module would give them. Layers with a
// weight matrix take adapters, those that the call says (layer_adapters.h).
// LOCAL. STREAM: everything runs on the current stream.
#pragma once
#include "models/nn/layer_adapters.h"
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>

namespace trestle::models::nn {

enum class Bias { no, yes };

/// y = x Wᵀ + b over the last axis; weight [out, in].
struct Linear {
  Linear(const Scope& scope, std::int64_t in, std::int64_t out, Bias with_bias);
  at::Tensor operator()(const at::Tensor& x, const CallContext& call = {}) const;
  at::Tensor weight, bias;  // bias undefined where there is none
  AdapterSlot adapters;
};

/// A 1x1 convolution that reads tokens [B, N, C]: the parameter keeps its [out, in, 1, 1] shape,
/// the arithmetic is a Linear (a 1x1 conv2d costs 21 % of a CPU step in the reference).
struct PointwiseConv {
  PointwiseConv(const Scope& scope, std::int64_t in, std::int64_t out, Bias with_bias);
  at::Tensor operator()(const at::Tensor& x_bnc, const CallContext& call = {}) const;
  /// For a caller that adds the bias itself.
  at::Tensor without_bias(const at::Tensor& x_bnc, const CallContext& call = {}) const;
  at::Tensor weight, bias;
  AdapterSlot adapters;
};

/// A depthwise 3x3 convolution, padding 1, over tokens [B, h*w, C] read as a channels-last picture.
struct DepthwiseConv3x3 {
  DepthwiseConv3x3(const Scope& scope, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x_bnc, std::int64_t height, std::int64_t width) const;
  at::Tensor weight, bias;  // [C, 1, 3, 3], [C]
};

/// diffusers' RMSNorm: the variance in fp32 whatever the dtype, the product in the wider of both.
struct RmsNorm {
  RmsNorm(const Scope& scope, std::int64_t channels, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight;
  double epsilon;
};

/// LayerNorm over the last axis; without parameters unless `affine`.
struct LayerNorm {
  enum class Affine { no, yes };
  LayerNorm(const Scope& scope, std::int64_t channels, double epsilon, Affine affine);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight, bias;
  std::int64_t channels;
  double epsilon;
};

/// Sinusoids of a timestep [B] -> [B, channels], cosines first, computed in fp32 (diffusers'
/// Timesteps with flip_sin_to_cos and downscale_freq_shift 0).
at::Tensor timestep_sinusoid(const at::Tensor& timestep_b, std::int64_t channels);

/// Linear -> SiLU -> Linear on the sinusoid (diffusers' TimestepEmbedding).
struct TimestepEmbedding {
  TimestepEmbedding(const Scope& scope, std::int64_t in, std::int64_t dim);
  at::Tensor operator()(const at::Tensor& x, const CallContext& call = {}) const;
  Linear linear_1, linear_2;
};

/// Linear -> tanh-GELU -> Linear (diffusers' PixArtAlphaTextProjection).
struct TextProjection {
  TextProjection(const Scope& scope, std::int64_t in, std::int64_t dim);
  at::Tensor operator()(const at::Tensor& x, const CallContext& call = {}) const;
  Linear linear_1, linear_2;
};

/// Fixed 2-D sine-cosine positions [1, h*w, dim] in fp32, computed in fp64 (diffusers'
/// get_2d_sincos_pos_embed). `base_size` is the side the model was trained at, in patches.
at::Tensor sincos_positions(std::int64_t dim, std::int64_t height, std::int64_t width,
                            std::int64_t base_size, double interpolation_scale);

}  // namespace trestle::models::nn
