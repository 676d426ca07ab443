// The loops behind activations.h: plain pointers, float, contiguous. LOCAL, single-threaded.
#pragma once
#include <cstdint>

namespace trestle::models::nn::fused {

void silu_forward(const float* x, float* y, std::int64_t count);
/// dx = dy · d silu(x)/dx
void silu_backward(const float* x, const float* dy, float* dx, std::int64_t count);

}  // namespace trestle::models::nn::fused
