// Parameters and the memory they take.
#include "models/nn/parameters.h"

#include "base/torch/tensor_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::models::nn {
namespace {

TEST(Parameters, LetGoOfTheMemoryTheyWereDrawnIn) {
  for (const Init init : {Init::uniform(1), Init::normal(1), Init::zeros(), Init::ones()}) {
    const TensorMemory memory(at::kCPU);
    Parameters parameters(at::TensorOptions().dtype(at::kFloat), Draws(1));
    at::Tensor weight = parameters.add("weight", {1000}, init);
    EXPECT_EQ(memory.live_bytes(), 4000);
    weight.set_data(at::zeros({1000}));  // as a flat buffer does
    EXPECT_EQ(memory.live_bytes(), 4000);
  }
}

TEST(Parameters, UnfilledOnesAreLeavesOfTheirShape) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16);
  Parameters parameters = Parameters::unfilled(options);
  const at::Tensor weight = parameters.add("weight", {3, 4}, Init::normal(1));
  EXPECT_TRUE(weight.is_leaf() && weight.requires_grad());
  EXPECT_EQ(weight.sizes(), (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(weight.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace trestle::models::nn
