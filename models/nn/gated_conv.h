// The middle of Sana's GLUMBConv as one pass over memory: bias, SiLU, depthwise 3x3, gate.
//
// CPU, float. Only the input is kept for the gradient; the rest is computed again, channel block by
// channel block, in a buffer that fits the cache (apart, the four steps move six times the memory).
// LOCAL. THREADS: any; uses ATen's intra-op threads.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>

namespace trestle::models::nn {

/// gated_silu(depthwise(silu(x + bias))): x [B, h·w, 2H] -> [B, h·w, H]. bias [2H]; the
/// convolution's weight [2H, 1, 3, 3] and bias [2H], padding 1. Requires runs_fused(x) (fused.h).
at::Tensor gated_conv(const at::Tensor& x_bnc, const at::Tensor& bias,
                      const at::Tensor& conv_weight, const at::Tensor& conv_bias,
                      std::int64_t height, std::int64_t width);

}  // namespace trestle::models::nn
