// Prompts as a transformer takes them: the answer of a text encoder, cut to the positions that
// count.
//
// Axes: B prompts, L tokens, C channels. LOCAL. THREADS: as the text encoder.
//   const auto text = embed(prompts.positive({"a cat"}), encoder);
//   const auto guided = for_guidance(embed(prompts.negative({""}), encoder), text);
#pragma once
#include "models/text/prompt_tokens.h"

#include <ATen/core/TensorBody.h>

#include <functional>

namespace trestle::models::text {

/// Any text encoder: int64 ids [B, L] and mask [B, L] on the CPU -> last hidden state [B, L, C].
using TextEncoder = std::function<at::Tensor(const at::Tensor& ids_bl, const at::Tensor& mask_bl)>;

struct PromptEmbeddings {
  at::Tensor text_blc;
  at::Tensor mask_bl;  ///< int64, on the CPU; 1: a token, 0: padding
};

PromptEmbeddings embed(const PromptTokens& prompts, const TextEncoder& encoder);

/// Both as one batch, in the reference's order: first all negative prompts, then all positive ones.
PromptEmbeddings for_guidance(const PromptEmbeddings& negative, const PromptEmbeddings& positive);

}  // namespace trestle::models::text
