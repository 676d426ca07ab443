// SiLU and the gate of gated layers. SiLU of float tensors on the CPU runs a fused, vectorised
// kernel with its own gradient; every other dtype and device runs ATen's operations, which is what
// fp64 comparisons with a reference want. (gated_conv.h fuses the gate with what stands before it.)
//
// LOCAL. THREADS: any; large inputs use ATen's intra-op threads. STREAM: the current one.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>

namespace trestle::models::nn {

/// x · sigmoid(x).
at::Tensor silu(const at::Tensor& x);

/// x holds two halves along its last axis, (a, gate): a · silu(gate). [.., 2H] -> [.., H].
at::Tensor gated_silu(const at::Tensor& x);

/// How often a fused kernel (forward) ran in this process: tests use it to prove which path they
/// took.
std::int64_t fused_calls();

}  // namespace trestle::models::nn
