// Modulation of adaptive layer norm (DiT's adaLN): a shift, scale and gate per sample. Float
// tensors on the CPU run fused with their own gradients; everything else is ATen's composition.
//
// LOCAL. THREADS: any; large inputs use ATen's intra-op threads. STREAM: the current one.
#pragma once
#include "models/nn/layers.h"

#include <ATen/core/TensorBody.h>

namespace trestle::models::nn {

/// norm(x) · (1 + scale) + shift. x [B, N, D]; shift and scale [B, 1, D].
at::Tensor modulate(const LayerNorm& norm, const at::Tensor& x_bnd, const at::Tensor& shift_b1d,
                    const at::Tensor& scale_b1d);

/// x + gate · y. x and y [B, N, D]; gate [B, 1, D].
at::Tensor gated_add(const at::Tensor& x_bnd, const at::Tensor& gate_b1d, const at::Tensor& y_bnd);

}  // namespace trestle::models::nn
