#include "models/dc_ae/blocks.h"

#include "models/nn/activations.h"
#include "models/nn/fused.h"
#include "models/nn/gated_conv.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <string>

namespace trestle::models::dc_ae {
namespace {

constexpr double kNormEpsilon = 1e-5;
constexpr std::int64_t kExpansion = 4;  // hidden channels of a gated convolution, in channels
constexpr std::int64_t kFactor = 2;     // what one level changes the sides by

/// What a convolution of the meta device would be: torch has one in Python only.
at::Tensor shape_of_convolution(const at::Tensor& x_bchw, const Conv::Shape& s) {
  const auto side = [&](std::int64_t axis) {
    return (x_bchw.size(axis) + s.kernel / 2 * 2 - s.kernel) / s.stride + 1;
  };
  return at::empty({x_bchw.size(0), s.out, side(2), side(3)},
                   x_bchw.options().memory_format(x_bchw.suggest_memory_format()));
}

}  // namespace

at::Tensor channels_second(const at::Tensor& x_bhwc) { return x_bhwc.permute({0, 3, 1, 2}); }
at::Tensor channels_last(const at::Tensor& x_bchw) { return x_bchw.permute({0, 2, 3, 1}); }

at::Tensor rectified(const at::Tensor& x) { return at::threshold(x, 0, 0); }

at::Tensor mean_channels(const at::Tensor& x_bchw, std::int64_t groups) {
  return x_bchw.unflatten(1, {groups, -1}).mean(2);
}

at::Tensor repeat_channels(const at::Tensor& x_bchw, std::int64_t times) {
  return x_bchw.repeat_interleave(times, 1);
}

std::optional<Activation> activation_named(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return char(std::tolower(c)); });
  if (lower == "silu" || lower == "swish") return Activation::silu;
  if (lower == "relu") return Activation::relu;
  if (lower == "gelu") return Activation::gelu;
  if (lower == "mish") return Activation::mish;
  return std::nullopt;
}

at::Tensor activate(Activation activation, const at::Tensor& x_bchw) {
  switch (activation) {
    case Activation::silu:
      // The fused kernel reads memory in order, which is that of the other view.
      return nn::runs_fused(x_bchw) ? channels_second(nn::silu(channels_last(x_bchw)))
                                    : at::silu(x_bchw);
    case Activation::relu:
      return rectified(x_bchw);
    case Activation::gelu:
      return at::gelu(x_bchw);
    case Activation::mish:
      return at::mish(x_bchw);
  }
  return {};
}

Conv::Conv(const nn::Scope& scope, const Shape& s) : shape(s) {
  const std::int64_t fan_in = s.in / s.groups * s.kernel * s.kernel;
  const auto init = nn::Init::uniform(1.0 / std::sqrt(double(fan_in)));
  weight = scope.parameter("weight", {s.out, s.in / s.groups, s.kernel, s.kernel}, init);
  if (s.bias == Bias::yes) bias = scope.parameter("bias", {s.out}, init);
}

at::Tensor Conv::operator()(const at::Tensor& x_bchw) const {
  if (x_bchw.is_meta()) return shape_of_convolution(x_bchw, shape);
  return at::conv2d(x_bchw, weight, bias, shape.stride, /*padding=*/shape.kernel / 2,
                    /*dilation=*/1, shape.groups);
}

ChannelNorm::ChannelNorm(const nn::Scope& scope, std::int64_t channels)
    : gain(scope, channels, kNormEpsilon),
      bias(scope.parameter("bias", {channels}, nn::Init::zeros())) {}

at::Tensor ChannelNorm::operator()(const at::Tensor& x_bchw) const {
  return channels_second(gain(channels_last(x_bchw)) + bias);
}

ResBlock::ResBlock(const nn::Scope& scope, std::int64_t channels, Activation a)
    : activation(a),
      conv1(scope / "conv1", {.in = channels, .out = channels}),
      conv2(scope / "conv2", {.in = channels, .out = channels, .bias = Bias::no}),
      norm(scope / "norm", channels) {}

at::Tensor ResBlock::operator()(const at::Tensor& x_bchw) const {
  return norm(conv2(activate(activation, conv1(x_bchw)))) + x_bchw;
}

GatedConv::GatedConv(const nn::Scope& scope, std::int64_t channels)
    : conv_inverted(scope / "conv_inverted",
                    {.in = channels, .out = 2 * kExpansion * channels, .kernel = 1}),
      conv_depth(scope / "conv_depth", {.in = 2 * kExpansion * channels,
                                        .out = 2 * kExpansion * channels,
                                        .groups = 2 * kExpansion * channels}),
      conv_point(scope / "conv_point",
                 {.in = kExpansion * channels, .out = channels, .kernel = 1, .bias = Bias::no}),
      norm(scope / "norm", channels) {}

at::Tensor GatedConv::operator()(const at::Tensor& x_bchw) const {
  at::Tensor mixed;
  if (nn::runs_fused(x_bchw)) {
    const std::int64_t height = x_bchw.size(2), width = x_bchw.size(3);
    const at::Tensor tokens = channels_last(x_bchw).flatten(1, 2);  // [B, N, C]
    const at::Tensor wide = at::linear(tokens, conv_inverted.weight.flatten(1));
    const at::Tensor gated = nn::gated_conv(wide, conv_inverted.bias, conv_depth.weight,
                                            conv_depth.bias, height, width);  // [B, N, 4C]
    mixed = channels_second(
        at::linear(gated, conv_point.weight.flatten(1)).unflatten(1, {height, width}));
  } else {
    const at::Tensor wide = at::silu(conv_inverted(x_bchw));  // [B, 8C, h, w]
    const auto halves = conv_depth(wide).chunk(2, 1);
    mixed = conv_point(halves[0] * at::silu(halves[1]));  // [B, C, h, w]
  }
  return norm(mixed) + x_bchw;
}

EfficientVitBlock::EfficientVitBlock(const nn::Scope& scope, std::int64_t channels,
                                     std::int64_t head_dim,
                                     const std::vector<std::int64_t>& kernels)
    : attn(scope / "attn", channels, head_dim, kernels), conv_out(scope / "conv_out", channels) {}

at::Tensor EfficientVitBlock::operator()(const at::Tensor& x_bchw) const {
  return conv_out(attn(x_bchw));
}

DownBlock::DownBlock(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool moves_pixels,
                     Shortcut s)
    : unshuffles(moves_pixels),
      shortcut(s),
      out_channels(out),
      conv(scope / "conv", {.in = in,
                            .out = unshuffles ? out / (kFactor * kFactor) : out,
                            .stride = unshuffles ? 1 : kFactor}) {}

at::Tensor DownBlock::operator()(const at::Tensor& x_bchw) const {
  at::Tensor y = conv(x_bchw);
  if (unshuffles) y = at::pixel_unshuffle(y, kFactor);
  if (shortcut == Shortcut::no) return y;
  return y + mean_channels(at::pixel_unshuffle(x_bchw, kFactor), out_channels);
}

UpBlock::UpBlock(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool repeats_pixels,
                 Shortcut s)
    : interpolates(repeats_pixels),
      shortcut(s),
      out_channels(out),
      conv(scope / "conv", {.in = in, .out = interpolates ? out : out * kFactor * kFactor}) {}

at::Tensor UpBlock::operator()(const at::Tensor& x_bchw) const {
  const at::Tensor y = interpolates
                           ? conv(at::upsample_nearest2d(
                                 x_bchw, {kFactor * x_bchw.size(2), kFactor * x_bchw.size(3)}))
                           : at::pixel_shuffle(conv(x_bchw), kFactor);
  if (shortcut == Shortcut::no) return y;
  const std::int64_t repeats = out_channels * kFactor * kFactor / x_bchw.size(1);
  return y + at::pixel_shuffle(repeat_channels(x_bchw, repeats), kFactor);
}

}  // namespace trestle::models::dc_ae
