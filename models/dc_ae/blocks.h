// The blocks of DC-AE, the deep compression autoencoder (Chen et al., 2024; names and shapes are
// those of diffusers' autoencoder_dc.py).
//
// Axes: B batch, h w sides, C channels, G groups of 3E channels, E channels of a head, N = h w.
// Pictures are [B, h, w, C] everywhere; only a convolution sees them as [B, C, h, w], by a view.
// Norms and projections thus run over the last axis. What lies in memory is the caller's choice:
// channels last is the faster one, and the other the reference's (autoencoder.cpp says when).
//
// LOCAL. STREAM: the current one. THREADS: calls are const and may run at once.
#pragma once
#include "models/nn/layers.h"

#include <ATen/core/TensorBody.h>

#include <optional>
#include <string_view>
#include <vector>

namespace trestle::models::dc_ae {

using nn::Bias;
enum class Shortcut { no, yes };
enum class Activation { silu, relu, gelu, mish };

/// diffusers' names, in any case; none where it knows no such activation.
std::optional<Activation> activation_named(std::string_view name);

/// A convolution with odd square kernel, padded by half of it. On the meta device it gives a shape
/// and has no gradient.
struct Conv {
  struct Shape {
    std::int64_t in, out;
    std::int64_t kernel = 3, stride = 1, groups = 1;
    Bias bias = Bias::yes;
  };
  Conv(const nn::Scope& scope, const Shape& shape);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  Shape shape;
  at::Tensor weight, bias;  // [out, in / groups, kernel, kernel], [out]
};

/// RMSNorm over the channels, with gain and offset.
struct ChannelNorm {
  ChannelNorm(const nn::Scope& scope, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  nn::RmsNorm gain;
  at::Tensor bias;
};

/// x + norm(conv(act(conv(x)))).
struct ResBlock {
  ResBlock(const nn::Scope& scope, std::int64_t channels, Activation activation);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  Activation activation;
  Conv conv1, conv2;
  ChannelNorm norm;
};

/// Multi-scale linear attention (EfficientViT). **to_q, to_k and to_v are not q, k and v**: their
/// outputs stand one after another, beside filtered copies of all three, and every 3E channels of
/// that row are a head's q, k and v.
struct MultiscaleAttention {
  MultiscaleAttention(const nn::Scope& scope, std::int64_t channels, std::int64_t head_dim,
                      const std::vector<std::int64_t>& kernels);
  /// With the residual.
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  struct Scale {
    Conv proj_in, proj_out;  // a depthwise filter, then a mix of each E channels
  };
  std::int64_t head_dim;
  nn::Linear to_q, to_k, to_v;
  std::vector<Scale> scales;
  nn::Linear to_out;
  ChannelNorm norm_out;
};

/// x + norm(1x1(a · SiLU(gate))), with (a, gate) = depthwise 3x3(SiLU(1x1(x))).
struct GatedConv {
  GatedConv(const nn::Scope& scope, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  Conv conv_inverted, conv_depth, conv_point;
  ChannelNorm norm;
};

struct EfficientVitBlock {
  EfficientVitBlock(const nn::Scope& scope, std::int64_t channels, std::int64_t head_dim,
                    const std::vector<std::int64_t>& kernels);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  MultiscaleAttention attn;
  GatedConv conv_out;
};

/// Halves the sides: a convolution (by stride, or by moving pixels into channels), and as a
/// shortcut means over groups of the 4 C_in channels that the pixels make when they move.
struct DownBlock {
  DownBlock(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool unshuffles,
            Shortcut shortcut);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  bool unshuffles;
  Shortcut shortcut;
  std::int64_t out_channels;
  Conv conv;
};

/// Doubles the sides: a convolution (after repeating pixels, or before moving channels into
/// pixels), and as a shortcut repeated channels that become pixels.
struct UpBlock {
  UpBlock(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool interpolates,
          Shortcut shortcut);
  at::Tensor operator()(const at::Tensor& x_bchw) const;

  bool interpolates;
  Shortcut shortcut;
  std::int64_t out_channels;
  Conv conv;
};

at::Tensor activate(Activation activation, const at::Tensor& x_bchw);

/// max(x, 0), with relu's gradient; unlike relu it has a meta device in C++.
at::Tensor rectified(const at::Tensor& x);

/// Means over neighbouring channels, `groups` of them.
at::Tensor mean_channels(const at::Tensor& x_bchw, std::int64_t groups);
/// Each channel `times` times in a row.
at::Tensor repeat_channels(const at::Tensor& x_bchw, std::int64_t times);

/// The two views of a picture.
at::Tensor channels_second(const at::Tensor& x_bhwc);
at::Tensor channels_last(const at::Tensor& x_bchw);

}  // namespace trestle::models::dc_ae
