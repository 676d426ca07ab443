#include "models/nn/layers.h"

#include "base/error.h"
#include "models/nn/activations.h"
#include "models/nn/fused.h"
#include "models/nn/rms_norm.h"

#include <ATen/ATen.h>

#include <cmath>

namespace trestle::models::nn {
namespace {

// torch.nn.Linear and Conv2d draw weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
Init fan_in_uniform(std::int64_t fan_in) { return Init::uniform(1.0 / std::sqrt(double(fan_in))); }

at::Tensor optional_bias(const Scope& scope, std::int64_t out, std::int64_t fan_in,
                         Bias with_bias) {
  if (with_bias == Bias::no) return {};
  return scope.parameter("bias", {out}, fan_in_uniform(fan_in));
}

}  // namespace

Linear::Linear(const Scope& scope, std::int64_t in, std::int64_t out, Bias with_bias)
    : weight(scope.parameter("weight", {out, in}, fan_in_uniform(in))),
      bias(optional_bias(scope, out, in, with_bias)),
      adapters(scope.layer(weight)) {}

at::Tensor Linear::operator()(const at::Tensor& x, const CallContext& call) const {
  return adapted(*adapters, x, at::linear(x, weight, bias), bias, call);
}

PointwiseConv::PointwiseConv(const Scope& scope, std::int64_t in, std::int64_t out, Bias with_bias)
    : weight(scope.parameter("weight", {out, in, 1, 1}, fan_in_uniform(in))),
      bias(optional_bias(scope, out, in, with_bias)),
      adapters(scope.layer(weight)) {}

at::Tensor PointwiseConv::operator()(const at::Tensor& x_bnc, const CallContext& call) const {
  return adapted(*adapters, x_bnc, at::linear(x_bnc, weight.flatten(1), bias), bias, call);
}

at::Tensor PointwiseConv::without_bias(const at::Tensor& x_bnc, const CallContext& call) const {
  return adapted(*adapters, x_bnc, at::linear(x_bnc, weight.flatten(1)), /*bias=*/{}, call);
}

DepthwiseConv3x3::DepthwiseConv3x3(const Scope& scope, std::int64_t channels)
    : weight(scope.parameter("weight", {channels, 1, 3, 3}, fan_in_uniform(9))),
      bias(scope.parameter("bias", {channels}, fan_in_uniform(9))) {
  scope.layer(
      weight,
      "it is a depthwise convolution: each channel has a filter of its own, so its weight is "
      "no matrix that a product of low rank could change");
}

at::Tensor DepthwiseConv3x3::operator()(const at::Tensor& x_bnc, std::int64_t height,
                                        std::int64_t width) const {
  // Token order is row-major, so the unflattened tokens are a picture in channels-last layout: the
  // convolution reads and writes that layout, and neither permute copies.
  const at::Tensor x_nchw = x_bnc.unflatten(1, {height, width}).permute({0, 3, 1, 2});
  const at::Tensor y_nchw =
      at::conv2d(x_nchw, weight, bias, /*stride=*/1, /*padding=*/1, /*dilation=*/1, weight.size(0));
  return y_nchw.permute({0, 2, 3, 1}).flatten(1, 2);
}

RmsNorm::RmsNorm(const Scope& scope, std::int64_t channels, double eps)
    : weight(scope.parameter("weight", {channels}, Init::ones())), epsilon(eps) {}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  if (runs_fused(x)) return fused_rms_norm(x, weight, epsilon);
  const at::Tensor variance = x.to(at::kFloat).pow(2).mean(-1, /*keepdim=*/true);
  at::Tensor y = x * at::rsqrt(variance + epsilon);
  if (weight.scalar_type() == at::kHalf || weight.scalar_type() == at::kBFloat16) {
    y = y.to(weight.scalar_type());
  }
  return y * weight;
}

LayerNorm::LayerNorm(const Scope& scope, std::int64_t c, double eps, Affine affine)
    : channels(c), epsilon(eps) {
  if (affine == Affine::yes) {
    weight = scope.parameter("weight", {channels}, Init::ones());
    bias = scope.parameter("bias", {channels}, Init::zeros());
  }
}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x, {channels}, weight, bias, epsilon);
}

at::Tensor timestep_sinusoid(const at::Tensor& timestep_b, std::int64_t channels) {
  const std::int64_t half = channels / 2;
  const auto options = timestep_b.options().dtype(at::kFloat);
  const at::Tensor exponent = at::arange(half, options) * (-std::log(10000.0)) / double(half);
  const at::Tensor angle = timestep_b.to(at::kFloat).unsqueeze(1) * exponent.exp().unsqueeze(0);
  return at::cat({angle.cos(), angle.sin()}, 1);
}

TimestepEmbedding::TimestepEmbedding(const Scope& scope, std::int64_t in, std::int64_t dim)
    : linear_1(scope / "linear_1", in, dim, Bias::yes),
      linear_2(scope / "linear_2", dim, dim, Bias::yes) {}

at::Tensor TimestepEmbedding::operator()(const at::Tensor& x, const CallContext& call) const {
  return linear_2(nn::silu(linear_1(x, call)), call);
}

TextProjection::TextProjection(const Scope& scope, std::int64_t in, std::int64_t dim)
    : linear_1(scope / "linear_1", in, dim, Bias::yes),
      linear_2(scope / "linear_2", dim, dim, Bias::yes) {}

at::Tensor TextProjection::operator()(const at::Tensor& x, const CallContext& call) const {
  return linear_2(at::gelu(linear_1(x, call), "tanh"), call);
}

at::Tensor sincos_positions(std::int64_t dim, std::int64_t height, std::int64_t width,
                            std::int64_t base_size, double interpolation_scale) {
  TRESTLE_ASSERT(dim % 4 == 0, "2-D positions need a width divisible by 4, not {}", dim);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const auto one_axis = [&](std::int64_t cells) {  // [cells, dim/2]: sines, then cosines
    // The reference draws the grid in fp32 before it goes on in fp64.
    const at::Tensor place = (at::arange(cells, options.dtype(at::kFloat)) /
                              (double(cells) / double(base_size)) / interpolation_scale)
                                 .to(at::kDouble);
    const at::Tensor omega =
        at::pow(10000.0, -(at::arange(dim / 4, options) / (double(dim) / 4.0)));
    const at::Tensor angle = at::outer(place, omega);
    return at::cat({angle.sin(), angle.cos()}, 1);
  };
  const at::Tensor across_wd = one_axis(width).unsqueeze(0).expand({height, width, dim / 2});
  const at::Tensor down_hd = one_axis(height).unsqueeze(1).expand({height, width, dim / 2});
  return at::cat({across_wd, down_hd}, 2).reshape({1, height * width, dim}).to(at::kFloat);
}

}  // namespace trestle::models::nn
