#include "models/text/prompt_encoder.h"

#include "base/error.h"

#include <ATen/ATen.h>

namespace trestle::models::text {
namespace {

at::Tensor to_tensor(const std::vector<std::int64_t>& values, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kLong);
  std::copy(values.begin(), values.end(), tensor.data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

PromptEmbeddings embed(const PromptTokens& prompts, const TextEncoder& encoder) {
  const PaddedTokens& tokens = prompts.tokens;
  const at::Tensor ids_bl = to_tensor(tokens.ids, {tokens.rows, tokens.length});
  const at::Tensor mask_bl = to_tensor(tokens.mask, {tokens.rows, tokens.length});
  const at::Tensor hidden_blc = encoder(ids_bl, mask_bl);
  TRESTLE_ASSERT(hidden_blc.dim() == 3 && hidden_blc.size(0) == tokens.rows &&
                     hidden_blc.size(1) == tokens.length,
                 "a text encoder answered {} x {} tokens with another shape", tokens.rows,
                 tokens.length);
  const at::Tensor selected = to_tensor(prompts.selected, {std::int64_t(prompts.selected.size())});
  return {.text_blc = hidden_blc.index_select(1, selected.to(hidden_blc.device())),
          .mask_bl = mask_bl.index_select(1, selected)};
}

PromptEmbeddings for_guidance(const PromptEmbeddings& negative, const PromptEmbeddings& positive) {
  return {.text_blc = at::cat({negative.text_blc, positive.text_blc}),
          .mask_bl = at::cat({negative.mask_bl, positive.mask_bl})};
}

}  // namespace trestle::models::text
