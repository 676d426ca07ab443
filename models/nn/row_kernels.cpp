#include "models/nn/row_kernels.h"

#include "models/nn/vector_math.h"

#include <cmath>

namespace trestle::models::nn::fused {
namespace {

// Sums over a row: two sets of lanes, so that one addition need not wait for the last.

TRESTLE_INLINE float total(const float* a, std::int64_t n) {
  Lanes even{}, odd{};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even += load(a + i);
    odd += load(a + i + kLanes);
  }
  float tail = 0;
  for (; i < n; ++i) tail += a[i];
  return sum(even + odd) + tail;
}

/// Σ a (b - away)
TRESTLE_INLINE float dot(const float* a, const float* b, std::int64_t n, float away = 0) {
  Lanes even{}, odd{};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even += load(a + i) * (load(b + i) - away);
    odd += load(a + i + kLanes) * (load(b + i + kLanes) - away);
  }
  float tail = 0;
  for (; i < n; ++i) tail += a[i] * (b[i] - away);
  return sum(even + odd) + tail;
}

/// Σ a b c
TRESTLE_INLINE float dot3(const float* a, const float* b, const float* c, std::int64_t n) {
  Lanes even{}, odd{};
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even += load(a + i) * load(b + i) * load(c + i);
    odd += load(a + i + kLanes) * load(b + i + kLanes) * load(c + i + kLanes);
  }
  float tail = 0;
  for (; i < n; ++i) tail += a[i] * b[i] * c[i];
  return sum(even + odd) + tail;
}

}  // namespace

TRESTLE_CLONES void rms_norm_forward(Rows rows, const float* x, const float* weight, float epsilon,
                                     bool rectify, float* y, std::int64_t y_stride, float* rrms) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count; ++row, x += rows.stride, y += y_stride) {
    const float* __restrict in = x;
    float* __restrict out = y;
    if (weight == nullptr) {
      for (std::int64_t i = 0; i < n; ++i) out[i] = rectify && in[i] < 0.0f ? 0.0f : in[i];
      continue;
    }
    const float squares = dot(in, in, n);
    const float r = 1.0f / std::sqrt(squares / float(n) + epsilon);
    rrms[row] = r;
    if (rectify) {
      for (std::int64_t i = 0; i < n; ++i) {
        const float value = in[i] * r * weight[i];
        out[i] = value < 0.0f ? 0.0f : value;  // written so that NaN stays NaN
      }
    } else {
      for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] * r * weight[i];
    }
  }
}

TRESTLE_CLONES void rms_norm_backward(Rows rows, const float* x, const float* weight,
                                      const float* rrms, const float* dy, std::int64_t dy_stride,
                                      float* dx, std::int64_t dx_stride, float* dweight) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count;
       ++row, x += rows.stride, dy += dy_stride, dx += dx_stride) {
    const float r = rrms[row];
    const float along = dot3(dy, weight, x, n);
    const float pull = along * r * r / float(n);
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {  // dx may be dy, element by element
      const float upstream = dy[i];
      dweight[i] += upstream * x[i] * r;
      dx[i] = r * (upstream * weight[i] - x[i] * pull);
    }
  }
}

TRESTLE_CLONES void modulated_norm_forward(Rows rows, const float* x, const float* shift,
                                           const float* scale, float epsilon, float* y,
                                           float* statistics) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count; ++row, x += rows.stride, y += n) {
    const float* __restrict in = x;
    float* __restrict out = y;
    const float mean = total(in, n) / float(n);
    for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] - mean;
    const float rstd = 1.0f / std::sqrt(dot(out, out, n) / float(n) + epsilon);
    statistics[2 * row] = mean;
    statistics[2 * row + 1] = rstd;
    for (std::int64_t i = 0; i < n; ++i) out[i] = out[i] * rstd * (1.0f + scale[i]) + shift[i];
  }
}

TRESTLE_CLONES void modulated_norm_backward(Rows rows, const float* x, const float* scale,
                                            const float* statistics, const float* dy, float* dx,
                                            float* dshift, float* dscale) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count; ++row, x += rows.stride, dy += n, dx += n) {
    const float mean = statistics[2 * row], rstd = statistics[2 * row + 1];
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) dx[i] = dy[i] * (1.0f + scale[i]);  // the norm's upstream
    const float mean_level = total(dx, n) / float(n);
    const float mean_along = dot(dx, x, n, mean) * rstd / float(n);
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      const float normed = (x[i] - mean) * rstd;
      dshift[i] += dy[i];
      dscale[i] += dy[i] * normed;
      dx[i] = rstd * (dx[i] - mean_level - normed * mean_along);
    }
  }
}

TRESTLE_CLONES void gated_add_forward(Rows rows, const float* x, const float* gate, const float* y,
                                      float* out) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count; ++row, x += n, y += n, out += n) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] + gate[i] * y[i];
  }
}

TRESTLE_CLONES void gated_add_backward(Rows rows, const float* gate, const float* y,
                                       const float* dout, float* dy, float* dgate) {
  const std::int64_t n = rows.channels;
  for (std::int64_t row = 0; row < rows.count; ++row, y += n, dout += n, dy += n) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      dy[i] = gate[i] * dout[i];
      dgate[i] += dout[i] * y[i];
    }
  }
}

}  // namespace trestle::models::nn::fused
