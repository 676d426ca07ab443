#include "models/nn/linear_attention_kernels.h"

#include "models/nn/vector_math.h"

#include <algorithm>

// Matrices of a head are copied into scratch with their rows padded to whole Lanes (P floats) and
// their number of rows to whole tiles, zeros beyond; so no product below has a remainder.

namespace trestle::models::nn::fused {
namespace {

constexpr std::int64_t kTile = 8;          // rows of a product kept in registers
constexpr std::int64_t kDepthBlock = 256;  // terms summed before they are added to the result

TRESTLE_INLINE std::int64_t padded(std::int64_t channels) { return round_up(channels, kLanes); }

/// C[i][f] = Σ_k A(k, i) B[k][f] for i < rows, k < depth; A(k, i) = a[k * depth_step + i *
/// row_step].
TRESTLE_INLINE void product(const float* a, std::int64_t depth_step, std::int64_t row_step,
                            const float* b, std::int64_t depth, std::int64_t rows, std::int64_t p,
                            float* c) {
  for (std::int64_t row = 0; row < rows; row += kTile) {
    for (std::int64_t f = 0; f < p; f += kLanes) {
      Lanes total[kTile] = {};
      for (std::int64_t start = 0; start < depth; start += kDepthBlock) {
        Lanes part[kTile] = {};
        for (std::int64_t k = start; k < std::min(depth, start + kDepthBlock); ++k) {
          const Lanes right = load(b + k * p + f);
          const float* left = a + k * depth_step + row * row_step;
          for (std::int64_t i = 0; i < kTile; ++i) part[i] += left[i * row_step] * right;
        }
        for (std::int64_t i = 0; i < kTile; ++i) total[i] += part[i];
      }
      for (std::int64_t i = 0; i < kTile; ++i) store(c + (row + i) * p + f, total[i]);
    }
  }
}

TRESTLE_INLINE void gather(const LinearHead& head, HeadRows from, float* to) {
  const std::int64_t p = padded(head.channels);
  for (std::int64_t n = 0; n < head.tokens; ++n) {
    copy(from.data + n * from.stride, to + n * p, head.channels);
  }
}

/// to[f] = Σ_n weight[n] x[n][f]; weight null: all ones.
TRESTLE_INLINE void column_sums(const LinearHead& head, const float* x, const float* weight,
                                float* to) {
  const std::int64_t p = padded(head.channels);
  for (std::int64_t f = 0; f < p; f += kLanes) {
    Lanes total{};
    for (std::int64_t start = 0; start < head.tokens; start += kDepthBlock) {
      Lanes part{};
      for (std::int64_t n = start; n < std::min(head.tokens, start + kDepthBlock); ++n) {
        part += load(x + n * p + f) * (weight == nullptr ? 1.0f : weight[n]);
      }
      total += part;
    }
    store(to + f, total);
  }
}

TRESTLE_INLINE float dot(const float* a, const float* b, std::int64_t p) {
  Lanes total{};
  for (std::int64_t f = 0; f < p; f += kLanes) total += load(a + f) * load(b + f);
  return sum(total);
}

TRESTLE_INLINE void transpose(const float* from, std::int64_t p, float* to) {
  for (std::int64_t i = 0; i < p; ++i) {
    for (std::int64_t j = 0; j < p; ++j) to[j * p + i] = from[i * p + j];
  }
}

}  // namespace

std::int64_t LinearHead::forward_scratch() const {
  const std::int64_t p = padded(channels), rows = round_up(tokens, kTile);
  return 3 * rows * p + p * p + p;
}

std::int64_t LinearHead::backward_scratch() const {
  const std::int64_t p = padded(channels), rows = round_up(tokens, kTile);
  return 5 * rows * p + 3 * p * p + 2 * p + rows;
}

TRESTLE_CLONES void linear_head_forward(const LinearHead& head, HeadRows q_rows, HeadRows k_rows,
                                        HeadRows v_rows, MutableHeadRows out, float* normaliser,
                                        float* scratch) {
  const std::int64_t p = padded(head.channels), rows = round_up(head.tokens, kTile);
  float* const q = scratch;
  float* const k = q + rows * p;
  float* const v = k + rows * p;
  float* const state = v + rows * p;  // Σ k vᵀ
  float* const key_sum = state + p * p;
  gather(head, q_rows, q);
  gather(head, k_rows, k);
  gather(head, v_rows, v);

  product(k, p, 1, v, head.tokens, p, p, state);
  column_sums(head, k, nullptr, key_sum);
  product(q, 1, p, state, p, rows, p, v);  // v has served
  for (std::int64_t n = 0; n < head.tokens; ++n) {
    normaliser[n] = 1.0f / (dot(q + n * p, key_sum, p) + head.epsilon);
    float* __restrict to = out.data + n * out.stride;
    const float* __restrict from = v + n * p;
    for (std::int64_t f = 0; f < head.channels; ++f) to[f] = from[f] * normaliser[n];
  }
}

TRESTLE_CLONES void linear_head_backward(const LinearHead& head, HeadRows q_rows, HeadRows k_rows,
                                         HeadRows v_rows, HeadRows out, const float* normaliser,
                                         HeadRows dout, MutableHeadRows dq, MutableHeadRows dk,
                                         MutableHeadRows dv, float* scratch) {
  const std::int64_t p = padded(head.channels), rows = round_up(head.tokens, kTile);
  float* const q = scratch;
  float* const k = q + rows * p;
  float* const v = k + rows * p;
  float* const dsums = v + rows * p;  // gradient of the numerator, [N][P]
  float* const result = dsums + rows * p;
  float* const state = result + rows * p;
  float* const dstate = state + p * p;
  float* const flipped = dstate + p * p;
  float* const key_sum = flipped + p * p;
  float* const dkey_sum = key_sum + p;
  float* const dnormaliser = dkey_sum + p;  // gradient of the denominator, [N]
  gather(head, q_rows, q);
  gather(head, k_rows, k);
  gather(head, v_rows, v);

  for (std::int64_t n = 0; n < head.tokens; ++n) {
    const float* upstream = dout.data + n * dout.stride;
    const float* y = out.data + n * out.stride;
    float* to = dsums + n * p;
    Lanes along{};
    std::int64_t f = 0;
    for (; f + kLanes <= head.channels; f += kLanes) {
      const Lanes d = load(upstream + f) * normaliser[n];
      along += d * load(y + f);
      store(to + f, d);
    }
    float tail = 0;
    for (; f < head.channels; ++f) {
      to[f] = upstream[f] * normaliser[n];
      tail += to[f] * y[f];
    }
    dnormaliser[n] = -(sum(along) + tail);
  }
  product(k, p, 1, v, head.tokens, p, p, state);
  column_sums(head, k, nullptr, key_sum);
  product(q, p, 1, dsums, head.tokens, p, p, dstate);
  column_sums(head, q, dnormaliser, dkey_sum);

  transpose(state, p, flipped);
  product(dsums, 1, p, flipped, p, rows, p, result);
  for (std::int64_t n = 0; n < head.tokens; ++n) {
    float* __restrict to = dq.data + n * dq.stride;
    for (std::int64_t e = 0; e < head.channels; ++e) {
      const float d = result[n * p + e] + dnormaliser[n] * key_sum[e];
      to[e] = q[n * p + e] > 0.0f ? d : 0.0f;
    }
  }
  transpose(dstate, p, flipped);
  product(v, 1, p, flipped, p, rows, p, result);
  for (std::int64_t n = 0; n < head.tokens; ++n) {
    float* __restrict to = dk.data + n * dk.stride;
    for (std::int64_t e = 0; e < head.channels; ++e) {
      const float d = result[n * p + e] + dkey_sum[e];
      to[e] = k[n * p + e] > 0.0f ? d : 0.0f;
    }
  }
  product(k, 1, p, dstate, p, rows, p, result);
  for (std::int64_t n = 0; n < head.tokens; ++n) {
    copy(result + n * p, dv.data + n * dv.stride, head.channels);
  }
}

}  // namespace trestle::models::nn::fused
