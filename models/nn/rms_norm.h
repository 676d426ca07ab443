// RMSNorm in one pass a row, with its own gradient. CPU, float. LOCAL. THREADS: ATen's intra-op
// ones.
#pragma once
#include <ATen/core/TensorBody.h>

namespace trestle::models::nn {

/// x / sqrt(mean(x²) + epsilon) · weight over the last axis, at least one channel. Requires
/// runs_fused(x) (fused.h).
at::Tensor fused_rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

}  // namespace trestle::models::nn
