// The loops behind linear_attention.h, for one head of one sample. LOCAL, single-threaded.
#pragma once
#include <cstdint>

namespace trestle::models::nn::fused {

/// One head's share of rows that lie `stride` floats apart.
struct HeadRows {
  const float* data;
  std::int64_t stride;
};
struct MutableHeadRows {
  float* data;
  std::int64_t stride;
};

struct LinearHead {
  std::int64_t tokens, channels;  // channels of the head
  float epsilon;
  std::int64_t forward_scratch() const;  // floats, zeros at first
  std::int64_t backward_scratch() const;
};

/// q and k are rectified already. normaliser [N] receives 1 / (Σ_m q_n·k_m + epsilon).
void linear_head_forward(const LinearHead& head, HeadRows q, HeadRows k, HeadRows v,
                         MutableHeadRows out, float* normaliser, float* scratch);
/// dq and dk are gradients before ReLU: zero where q or k is.
void linear_head_backward(const LinearHead& head, HeadRows q, HeadRows k, HeadRows v, HeadRows out,
                          const float* normaliser, HeadRows dout, MutableHeadRows dq,
                          MutableHeadRows dk, MutableHeadRows dv, float* scratch);

}  // namespace trestle::models::nn::fused
