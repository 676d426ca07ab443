// The fused layers against ATen's composition of the same formula, forward and every gradient, at
// sizes that divide nothing; and what they promise beyond the numbers.
#include "base/torch/draws.h"
#include "models/nn/activations.h"
#include "models/nn/fused.h"
#include "models/nn/gated_conv.h"
#include "models/nn/linear_attention.h"
#include "models/nn/modulation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

namespace trestle::models::nn {
namespace {

using Tensors = std::vector<at::Tensor>;
using Layer = std::function<at::Tensor(const Tensors&)>;

at::Tensor values(std::string_view name, at::IntArrayRef shape) {
  return Draws(1).normal(Purpose(name), shape, at::TensorOptions().dtype(at::kFloat));
}

/// The output, then the gradient of a weighted sum of it for each input.
Tensors run(const Layer& layer, const Tensors& inputs, at::ScalarType dtype) {
  Tensors leaves;
  for (const auto& input : inputs) {
    leaves.push_back(input.detach().to(dtype).clone().requires_grad_(true));
  }
  const at::Tensor y = layer(leaves);
  const at::Tensor weights = at::arange(y.numel(), y.options()).view(y.sizes()).cos();
  torch::autograd::backward({(y * weights).sum()}, {});
  Tensors outcome = {y.detach()};
  for (const auto& leaf : leaves) outcome.push_back(leaf.grad());
  return outcome;
}

/// Fused in fp32 against ATen in fp64; the error counts against the largest value, or against 1
/// where all are smaller (some gradients are differences that cancel to zero).
void expect_equal(const Layer& fused, const Layer& reference, const Tensors& inputs,
                  double bound = 3e-6) {
  const std::int64_t before = fused_calls();
  const Tensors ours = run(fused, inputs, at::kFloat);
  EXPECT_GT(fused_calls(), before);
  const Tensors theirs = run(reference, inputs, at::kDouble);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    ASSERT_EQ(ours[i].sizes(), theirs[i].sizes()) << "tensor " << i;
    if (ours[i].numel() == 0) continue;
    const double largest = std::max(1.0, theirs[i].abs().max().item<double>());
    EXPECT_LT((ours[i] - theirs[i]).abs().max().item<double>() / largest, bound) << "tensor " << i;
  }
}

struct Shape {
  std::int64_t batch, tokens, channels;
};
const std::vector<Shape> kShapes = {{1, 1, 1},    {2, 3, 33},   {3, 65, 70},
                                    {2, 200, 16}, {1, 4, 2240}, {2, 0, 8}};

Parameters no_parameters() { return {at::TensorOptions().dtype(at::kFloat), Draws(2)}; }

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x * at::rsqrt(x.square().mean(-1, true) + epsilon) * weight;
}

TEST(Modulate, EqualsAten) {
  for (const auto& [b, n, d] : kShapes) {
    if (d == 1) continue;  // a norm of one channel is zero, and its gradient rounding
    Parameters parameters = no_parameters();
    const LayerNorm norm(parameters.root(), d, 1e-6, LayerNorm::Affine::no);
    const Layer layer = [&](const Tensors& t) { return modulate(norm, t[0], t[1], t[2]); };
    const Layer aten = [&](const Tensors& t) {
      return at::layer_norm(t[0], {d}, {}, {}, 1e-6) * (1 + t[2]) + t[1];
    };
    expect_equal(layer, aten,
                 {values("x", {b, n, d}) + 5, values("s", {b, 1, d}), values("c", {b, 1, d})},
                 1e-5);
  }
}

TEST(Modulate, KeepsAnAffineNorm) {
  Parameters parameters = no_parameters();
  const LayerNorm norm(parameters.root() / "n", 8, 1e-6, LayerNorm::Affine::yes);
  const at::Tensor x = values("x", {2, 3, 8}), shift = values("s", {2, 1, 8});
  {
    const at::NoGradGuard guard;
    at::Tensor w = norm.weight;
    w.fill_(2.0);
  }
  const at::Tensor y = modulate(norm, x, shift, at::zeros({2, 1, 8}));
  EXPECT_LT((y - (2 * at::layer_norm(x, {8}, {}, {}, 1e-6) + shift)).abs().max().item<float>(),
            1e-5f);
}

TEST(GatedAdd, EqualsAten) {
  for (const auto& [b, n, d] : kShapes) {
    const Layer layer = [](const Tensors& t) { return gated_add(t[0], t[1], t[2]); };
    const Layer aten = [](const Tensors& t) { return t[0] + t[1] * t[2]; };
    expect_equal(layer, aten,
                 {values("x", {b, n, d}), values("g", {b, 1, d}), values("y", {b, n, d})});
  }
}

TEST(GatedAdd, ReadsStridedInput) {
  const at::Tensor x = values("x", {2, 7, 5}).transpose(1, 2),
                   y = values("y", {2, 7, 5}).transpose(1, 2);
  const at::Tensor gate = values("g", {2, 6, 7}).slice(1, 2, 3);
  EXPECT_TRUE(at::allclose(gated_add(x, gate, y), x + gate * y));
}

TEST(RmsNorm, EqualsAten) {
  for (const auto& [b, n, d] : kShapes) {
    const Layer layer = [](const Tensors& t) {
      Parameters parameters = no_parameters();
      RmsNorm norm(parameters.root(), t[0].size(2), 1e-5);
      norm.weight = t[1];
      return norm(t[0]);
    };
    const Layer aten = [](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); };
    expect_equal(layer, aten, {values("x", {b, n, d}), values("w", {d})});
  }
}

TEST(LinearAttention, EqualsAten) {
  struct Heads {
    std::int64_t batch, tokens, heads, channels;
  };
  for (const auto& [b, n, h, e] :
       {Heads{1, 1, 1, 1}, {2, 9, 3, 5}, {1, 300, 2, 33}, {2, 64, 4, 32}}) {
    for (const bool normed : {false, true}) {
      const Layer layer = [&, h = h, e = e](const Tensors& t) {
        Parameters parameters = no_parameters();
        RmsNorm q(parameters.root() / "q", h * e, 1e-5), k(parameters.root() / "k", h * e, 1e-5);
        if (normed) q.weight = t[1], k.weight = t[2];
        return linear_attention(t[0], normed ? &q : nullptr, normed ? &k : nullptr, h, 1e-15);
      };
      const Layer aten = [&, h = h](const Tensors& t) {
        const auto parts = t[0].chunk(3, -1);
        const auto split = [&](const at::Tensor& x) {
          return x.unflatten(2, {h, -1}).transpose(1, 2);
        };
        const at::Tensor q = at::relu(split(normed ? rms_norm(parts[0], t[1], 1e-5) : parts[0]));
        const at::Tensor k = at::relu(split(normed ? rms_norm(parts[1], t[2], 1e-5) : parts[1]));
        const at::Tensor scores = at::matmul(q, k.transpose(2, 3));
        const at::Tensor out = at::matmul(scores, split(parts[2])) / (scores.sum(-1, true) + 1e-15);
        return out.transpose(1, 2).flatten(2);
      };
      // Away from zero: where all of q' · k' nearly vanish the quotient has no digits to compare.
      Tensors inputs = {values("qkv", {b, n, 3 * h * e}) + 1.0};
      if (normed)
        inputs.push_back(values("q", {h * e}).abs()), inputs.push_back(values("k", {h * e}).abs());
      expect_equal(layer, aten, inputs, 2e-5);
    }
  }
}

TEST(LinearAttention, NoPositiveScoreGivesZero) {
  const at::Tensor out =
      linear_attention(-values("qkv", {1, 4, 24}).abs(), nullptr, nullptr, 2, 1e-15);
  EXPECT_EQ(out.abs().max().item<float>(), 0.0f);
}

TEST(GatedConv, EqualsAten) {
  struct Picture {
    std::int64_t batch, height, width, half;
  };
  for (const auto& [b, h, w, half] :
       {Picture{1, 1, 1, 1}, {2, 3, 5, 7}, {1, 4, 4, 64}, {2, 6, 3, 130}, {1, 5, 3, 330}}) {
    const std::int64_t height = h, width = w, channels = 2 * half;
    const Layer layer = [&](const Tensors& t) {
      return gated_conv(t[0], t[1], t[2], t[3], height, width);
    };
    const Layer aten = [&](const Tensors& t) {
      const at::Tensor wide =
          at::silu(t[0] + t[1]).unflatten(1, {height, width}).permute({0, 3, 1, 2});
      const at::Tensor mixed =
          at::conv2d(wide, t[2], t[3], 1, 1, 1, channels).permute({0, 2, 3, 1}).flatten(1, 2);
      const auto halves = mixed.chunk(2, -1);
      return halves[0] * at::silu(halves[1]);
    };
    expect_equal(layer, aten,
                 {values("x", {b, h * w, channels}) * 2, values("b", {channels}),
                  values("w", {channels, 1, 3, 3}), values("c", {channels})});
  }
}

TEST(FusedLayers, DoNotDependOnThreadsOrCompany) {
  const at::Tensor x = values("x", {3, 256, 140}), bias = values("b", {140}),
                   weight = values("w", {140, 1, 3, 3});
  const Layer layer = [&](const Tensors& t) {
    return gated_conv(t[0], t[1], weight, bias, 16, 16);
  };
  const Layer attend = [](const Tensors& t) {
    return linear_attention(t[0].slice(2, 0, 120), nullptr, nullptr, 4, 1e-15);
  };
  const Layer normed = [&](const Tensors& t) {
    Parameters parameters = no_parameters();
    RmsNorm norm(parameters.root(), 140, 1e-5);
    norm.weight = t[1];
    return norm(t[0]);
  };
  const int threads = at::get_num_threads();
  for (const auto& f : {layer, normed}) {
    at::set_num_threads(1);
    const Tensors one = run(f, {x, bias}, at::kFloat);
    at::set_num_threads(3);
    const Tensors three = run(f, {x, bias}, at::kFloat);
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << i;
  }
  at::set_num_threads(threads);
  for (const auto& f : {layer, attend, normed}) {
    const at::Tensor all = f({x, bias}), last = f({x.slice(0, 2), bias});
    EXPECT_TRUE(at::equal(all[2], last[0]));
  }
}

}  // namespace
}  // namespace trestle::models::nn
