// The CUDA draws against the CPU's.
#include "base/torch/draws.h"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>

namespace trestle {
namespace {

TEST(DrawsGpu, UniformBitsEqualAndNormalsToRounding) {
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) GTEST_SKIP() << "no GPU";
  const Draws draws(5);
  const auto host = at::TensorOptions().dtype(at::kFloat);
  const std::vector<Position> rows = {{0}, {3}, {std::int64_t{1} << 35}};
  const auto cuda = host.device(at::kCUDA);
  EXPECT_TRUE(at::equal(draws.uniform(rows, Purpose("u"), {1001}, cuda).cpu(),
                        draws.uniform(rows, Purpose("u"), {1001}, host)));
  const at::Tensor difference = draws.normal(rows, Purpose("n"), {1001}, cuda).cpu() -
                                draws.normal(rows, Purpose("n"), {1001}, host);
  EXPECT_LE(difference.abs().max().item<float>(), 1e-6f);
}

}  // namespace
}  // namespace trestle
