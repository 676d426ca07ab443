// Linear attention with a ReLU kernel, fused: the q and k norms, ReLU, both products and the
// division.
//
// CPU, float. Kept for the gradient: the projections, ReLU(norm(q)), ReLU(norm(k)) and the result.
// LOCAL. THREADS: any; uses ATen's intra-op threads.
#pragma once
#include "models/nn/layers.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>

namespace trestle::models::nn {

/// With q' = ReLU(norm_q(q)), k' = ReLU(norm_k(k)): (Σ_m (q'_n·k'_m) v_m) / (Σ_m q'_n·k'_m +
/// epsilon) per head. qkv [B, N, 3D] holds q, k and v one after another; the result is [B, N, D].
/// Null norms are left out, both or none. Requires runs_fused(qkv) (fused.h).
at::Tensor linear_attention(const at::Tensor& qkv_bn3d, const RmsNorm* norm_q,
                            const RmsNorm* norm_k, std::int64_t heads, double epsilon);

}  // namespace trestle::models::nn
