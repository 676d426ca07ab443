// Loops over rows of channels behind norms and modulation: plain pointers, float, rows contiguous.
// Sums (d...) are added to what is there. LOCAL, single-threaded.
#pragma once
#include <cstdint>

namespace trestle::models::nn::fused {

struct Rows {
  std::int64_t count, channels;
  std::int64_t stride;  // floats from one row to the next, of the tensor that may be a slice
};

/// y = x / rms(x) · weight, then max(y, 0) if `rectify`; x has rows.stride, y is dense or
/// `y_stride` apart. rrms: 1 / rms, one a row. weight null: y = x, rrms untouched.
void rms_norm_forward(Rows rows, const float* x, const float* weight, float epsilon, bool rectify,
                      float* y, std::int64_t y_stride, float* rrms);
/// dy dense at dy_stride; dx at rows.stride and may be dy itself.
void rms_norm_backward(Rows rows, const float* x, const float* weight, const float* rrms,
                       const float* dy, std::int64_t dy_stride, float* dx, std::int64_t dx_stride,
                       float* dweight);

/// y = (x - mean) · rstd · (1 + scale) + shift, with one scale and shift for all rows; statistics
/// are kept as (mean, rstd) pairs.
void modulated_norm_forward(Rows rows, const float* x, const float* shift, const float* scale,
                            float epsilon, float* y, float* statistics);
void modulated_norm_backward(Rows rows, const float* x, const float* scale, const float* statistics,
                             const float* dy, float* dx, float* dshift, float* dscale);

/// out = x + gate · y, with one gate for all rows.
void gated_add_forward(Rows rows, const float* x, const float* gate, const float* y, float* out);
void gated_add_backward(Rows rows, const float* gate, const float* y, const float* dout, float* dy,
                        float* dgate);

}  // namespace trestle::models::nn::fused
