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

}  // namespace
}  // namespace trestle::models::nn
