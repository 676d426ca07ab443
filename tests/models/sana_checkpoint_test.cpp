// Sana with checkpointed blocks against Sana without: the same bits in the prediction and in every
// gradient, dropout and all; and less memory.
#include "base/torch/tensor_memory.h"
#include "tests/models/tiny_sana.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace trestle::models {
namespace {

constexpr std::int64_t kBlocks = 3;

using Model = testing::SanaModel;

sana::SanaConfig small() {
  sana::SanaConfig config = testing::tiny_sana();
  config.num_layers = kBlocks;
  config.dropout = 0.3;
  return config;
}

struct Input {
  explicit Input(at::ScalarType dtype, std::int64_t side = 4) {
    const auto options = at::TensorOptions().dtype(dtype);
    latents = Draws(2).normal(Purpose("x"), {3, 12, side, side}, options);
    text = Draws(2).normal(Purpose("t"), {3, 5, 6}, options).requires_grad_(true);
    mask = at::ones({3, 5}, at::kLong);
    mask.slice(1, 3).zero_();
  }
  at::Tensor latents, text, mask;
};

/// Prediction and gradients; what only the call owns is gone before backward starts.
std::vector<at::Tensor> outcome(const Model& m, const Input& in, std::int64_t every) {
  for (const auto& parameter : m.parameters.all()) parameter.tensor.mutable_grad().reset();
  in.text.mutable_grad().reset();
  at::Tensor out;
  {
    const sana::DropoutDraws dropout{Draws(3), {{4}, {9}, {1}}};
    out = m.model({.latents_bchw = in.latents,
                   .text_blc = in.text,
                   .timestep_b = at::linspace(1, 900, 3),
                   .text_mask_bl = in.mask,
                   .dropout = &dropout,
                   .checkpoint_every = every});
  }
  torch::autograd::backward({out.square().sum()}, {});
  std::vector<at::Tensor> found = {out.detach(), in.text.grad()};
  for (const auto& parameter : m.parameters.all()) found.push_back(parameter.tensor.grad());
  return found;
}

TEST(SanaCheckpoint, SegmentsOfAnyLengthHaveTheSameBits) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const bool qk_norm : {false, true}) {
      auto config = small();
      if (!qk_norm) config.qk_norm.reset();
      const Model m(config, dtype);
      const Input in(dtype);
      const auto plain = outcome(m, in, 0);
      for (std::int64_t every = 1; every <= kBlocks; ++every) {
        const auto found = outcome(m, in, every);
        for (std::size_t i = 0; i < plain.size(); ++i) {
          ASSERT_TRUE(plain[i].defined() && found[i].defined()) << i;
          EXPECT_TRUE(at::equal(plain[i], found[i])) << "every " << every << ", tensor " << i;
        }
      }
    }
  }
}

TEST(SanaCheckpoint, HoldsOneBlocksActivations) {
  auto config = small();
  config.num_layers = 12;
  config.sample_size = 16;
  const Model m(config, at::kFloat);
  const Input in(at::kFloat, 16);
  const auto peak = [&](std::int64_t every) {
    const TensorMemory memory(at::kCPU);
    outcome(m, in, every);
    return double(memory.peak_bytes());
  };
  peak(0);
  const double none = peak(0);
  EXPECT_LT(peak(1), none / 4);
  EXPECT_LT(peak(3), none / 2);
}

}  // namespace
}  // namespace trestle::models
