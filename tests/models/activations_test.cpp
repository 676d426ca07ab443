// The fused kernels against ATen's operations, forward and gradient.
#include "models/nn/activations.h"

#include "base/torch/draws.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace trestle::models::nn {
namespace {

at::Tensor values(at::IntArrayRef shape) {
  return Draws(1).normal(Purpose("x"), shape, at::TensorOptions().dtype(at::kFloat)) * 6;
}

struct Outcome {
  at::Tensor output, gradient;
};

template <class Function>
Outcome run(const at::Tensor& input, Function function) {
  const at::Tensor x = input.detach().clone().requires_grad_(true);
  const at::Tensor y = function(x);
  torch::autograd::backward({(y * at::arange(y.numel(), y.options()).view_as(y).cos()).sum()}, {});
  return {y.detach(), x.grad()};
}

void expect_close(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  EXPECT_LT(((a - b).abs().max() / b.abs().max()).item<float>(), 5e-7f);
}

TEST(Silu, EqualsAtenForwardAndBackward) {
  for (const auto& shape : {std::vector<std::int64_t>{1}, {17}, {3, 5, 33}, {2, 40000}}) {
    const at::Tensor x = values(shape);
    const auto ours = run(x, [](const at::Tensor& t) { return nn::silu(t); });
    const auto theirs = run(x, [](const at::Tensor& t) { return at::silu(t); });
    expect_close(ours.output, theirs.output);
    expect_close(ours.gradient, theirs.gradient);
  }
}

TEST(Silu, ExtremesStayFinite) {
  const at::Tensor x = at::tensor({-1e30f, -1000.f, -88.f, -87.f, 0.f, 87.f, 1000.f, 1e30f});
  const auto ours = run(x, [](const at::Tensor& t) { return nn::silu(t); });
  EXPECT_TRUE(at::isfinite(ours.output).all().item<bool>());
  EXPECT_TRUE(at::isfinite(ours.gradient.slice(0, 1, 7)).all().item<bool>());
  EXPECT_EQ(ours.output[7].item<float>(), 1e30f);
  EXPECT_NEAR(ours.output[1].item<float>(), 0.0f, 1e-6f);
}

TEST(Silu, NotANumberStaysOne) {
  const at::Tensor y = nn::silu(at::full({20}, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_TRUE(at::isnan(y).all().item<bool>());
}

TEST(Silu, ReadsStridedInput) {
  const at::Tensor x = values({6, 8}).t();
  expect_close(nn::silu(x), at::silu(x));
}

TEST(FusedCalls, CountFloatsOnly) {
  const std::int64_t before = fused_calls();
  nn::silu(values({4}).to(at::kDouble));
  EXPECT_EQ(fused_calls(), before);
  nn::silu(values({4}));
  EXPECT_EQ(fused_calls(), before + 1);
}

}  // namespace
}  // namespace trestle::models::nn
