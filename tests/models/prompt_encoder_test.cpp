#include "models/text/prompt_encoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::models::text {
namespace {

/// Channel 0 of its answer is the id, channel 1 the position.
at::Tensor echo(const at::Tensor& ids_bl, const at::Tensor& mask_bl) {
  EXPECT_EQ(mask_bl.sizes(), ids_bl.sizes());
  const at::Tensor positions = at::arange(ids_bl.size(1), at::kLong).expand_as(ids_bl);
  return at::stack({ids_bl, positions}, -1).to(at::kDouble);
}

TEST(PromptEncoder, KeepsTheSelectedPositionsAndPutsNegativeOnesFirst) {
  const PromptTokens positive{
      .tokens = {.rows = 1, .length = 4, .ids = {2, 7, 8, 0}, .mask = {1, 1, 1, 0}},
      .selected = {0, 2, 3}};
  const PromptTokens negative{
      .tokens = {.rows = 1, .length = 3, .ids = {2, 0, 0}, .mask = {1, 0, 0}},
      .selected = {0, 1, 2}};
  const PromptEmbeddings both = for_guidance(embed(negative, echo), embed(positive, echo));
  const at::Tensor text =
      at::tensor({2., 0., 0., 1., 0., 2., 2., 0., 8., 2., 0., 3.}, at::kDouble).view({2, 3, 2});
  EXPECT_TRUE(at::equal(both.text_blc, text));
  EXPECT_TRUE(at::equal(both.mask_bl, at::tensor({1, 0, 0, 1, 1, 0}, at::kLong).view({2, 3})));
}

}  // namespace
}  // namespace trestle::models::text
