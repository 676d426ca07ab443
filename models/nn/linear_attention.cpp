#include "models/nn/linear_attention.h"

#include "base/error.h"
#include "base/torch/operand_watch.h"
#include "models/nn/fused.h"
#include "models/nn/linear_attention_kernels.h"
#include "models/nn/row_kernels.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

// Axes: B batch, N tokens, D width, H heads, E = D / H channels of a head.

namespace trestle::models::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const float* data_or_null(const at::Tensor& x) { return x.defined() ? fused::values(x) : nullptr; }

struct Sizes {
  std::int64_t samples, tokens, width, heads;
  std::int64_t channels() const { return width / heads; }
  fused::LinearHead head(double epsilon) const { return {tokens, channels(), float(epsilon)}; }
};

Sizes sizes_of(const at::Tensor& qkv, std::int64_t heads) {
  return {qkv.size(0), qkv.size(1), qkv.size(2) / 3, heads};
}

/// Calls body(token offset of the sample, channel offset of the head, head index in the batch,
/// scratch), unless qkv is on the meta device.
template <class Body>
void for_heads(const at::Tensor& qkv, const Sizes& s, std::int64_t scratch_floats,
               const Body& body) {
  if (qkv.is_meta()) return;
  at::parallel_for(0, s.samples * s.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scratch(static_cast<std::size_t>(scratch_floats));
    for (std::int64_t i = begin; i < end; ++i) {
      body(i / s.heads * s.tokens, i % s.heads * s.channels(), i, scratch.data());
    }
  });
}

struct LinearAttentionFunction : torch::autograd::Function<LinearAttentionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv_bn3d,
                            const std::optional<at::Tensor>& norm_q,
                            const std::optional<at::Tensor>& norm_k, double norm_epsilon,
                            std::int64_t heads, double epsilon) {
    fused::count_call();
    const at::Tensor weight_q = norm_q.value_or(at::Tensor()),
                     weight_k = norm_k.value_or(at::Tensor());
    about_to_read({qkv_bn3d, weight_q, weight_k});
    const at::Tensor qkv = qkv_bn3d.contiguous();
    const Sizes s = sizes_of(qkv, heads);
    const std::int64_t d = s.width;
    at::Tensor rectified = at::empty({s.samples, s.tokens, 2 * d}, qkv.options());  // q', k'
    at::Tensor rrms = at::empty({2, s.samples * s.tokens}, qkv.options());
    at::Tensor normaliser = at::empty({s.samples, heads, s.tokens}, qkv.options());
    at::Tensor out = at::empty({s.samples, s.tokens, d}, qkv.options());
    const float* in = fused::values(qkv);
    const float* weights[] = {data_or_null(weight_q), data_or_null(weight_k)};
    float* qk = fused::mutable_values(rectified);
    float* kept = fused::mutable_values(rrms);
    float* divisors = fused::mutable_values(normaliser);
    float* to = fused::mutable_values(out);

    fused::for_row_blocks(qkv, 1, s.samples * s.tokens, 2 * d, [&](auto, auto, auto row, auto end) {
      for (int which = 0; which < 2; ++which) {
        fused::rms_norm_forward({end - row, d, 3 * d}, in + row * 3 * d + which * d, weights[which],
                                float(norm_epsilon), /*rectify=*/true, qk + row * 2 * d + which * d,
                                2 * d, kept + which * s.samples * s.tokens + row);
      }
    });
    const fused::LinearHead head = s.head(epsilon);
    for_heads(
        qkv, s, head.forward_scratch(), [&](auto token, auto channel, auto index, float* scratch) {
          const float *own_qk = qk + token * 2 * d + channel, *own = in + token * 3 * d + channel;
          fused::linear_head_forward(head, {own_qk, 2 * d}, {own_qk + d, 2 * d},
                                     {own + 2 * d, 3 * d}, {to + token * d + channel, d},
                                     divisors + index * s.tokens, scratch);
        });
    context->save_for_backward({qkv, weight_q, weight_k, rectified, rrms, normaliser, out});
    context->saved_data["heads"] = heads;
    context->saved_data["epsilon"] = epsilon;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &weight_q = saved[1], &weight_k = saved[2];
    const at::Tensor dout = gradients[0].contiguous();
    const Sizes s = sizes_of(qkv, context->saved_data["heads"].toInt());
    const std::int64_t d = s.width, all_rows = s.samples * s.tokens;
    at::Tensor dqkv = at::empty_like(qkv);
    const float* in = fused::values(qkv);
    const float* qk = fused::values(saved[3]);
    const float* kept = fused::values(saved[4]);
    const float* divisors = fused::values(saved[5]);
    const float* result = fused::values(saved[6]);
    const float* upstream = fused::values(dout);
    float* to = fused::mutable_values(dqkv);

    const fused::LinearHead head = s.head(context->saved_data["epsilon"].toDouble());
    for_heads(
        qkv, s, head.backward_scratch(), [&](auto token, auto channel, auto index, float* scratch) {
          const float *own_qk = qk + token * 2 * d + channel, *own = in + token * 3 * d + channel;
          float* own_d = to + token * 3 * d + channel;
          fused::linear_head_backward(head, {own_qk, 2 * d}, {own_qk + d, 2 * d},
                                      {own + 2 * d, 3 * d}, {result + token * d + channel, d},
                                      divisors + index * s.tokens,
                                      {upstream + token * d + channel, d}, {own_d, 3 * d},
                                      {own_d + d, 3 * d}, {own_d + 2 * d, 3 * d}, scratch);
        });
    if (!weight_q.defined()) return {dqkv, {}, {}, {}, {}, {}};

    const float* weights[] = {data_or_null(weight_q), data_or_null(weight_k)};
    at::Tensor dweights = at::zeros({1, fused::blocks_of(all_rows), 2 * d}, qkv.options());
    float* sums = fused::mutable_values(dweights);
    fused::for_row_blocks(qkv, 1, all_rows, 2 * d, [&](auto block, auto, auto row, auto end) {
      for (int which = 0; which < 2; ++which) {
        const std::int64_t at = row * 3 * d + which * d;
        fused::rms_norm_backward({end - row, d, 3 * d}, in + at, weights[which],
                                 kept + which * all_rows + row, to + at, 3 * d, to + at, 3 * d,
                                 sums + block * 2 * d + which * d);
      }
    });
    const at::Tensor total = fused::sum_parts(dweights)[0];
    return {dqkv, total.slice(0, 0, d), total.slice(0, d), {}, {}, {}};
  }
};

}  // namespace

at::Tensor linear_attention(const at::Tensor& qkv_bn3d, const RmsNorm* norm_q,
                            const RmsNorm* norm_k, std::int64_t heads, double epsilon) {
  TRESTLE_ASSERT(runs_fused(qkv_bn3d) && qkv_bn3d.size(2) % (3 * heads) == 0 &&
                     (norm_q == nullptr) == (norm_k == nullptr) &&
                     (norm_q == nullptr || norm_q->epsilon == norm_k->epsilon),
                 "q, k, v of width {} do not suit {} heads", qkv_bn3d.size(2), heads);
  const auto weight = [](const RmsNorm* norm) {
    return norm != nullptr ? std::optional(norm->weight) : std::nullopt;
  };
  return LinearAttentionFunction::apply(qkv_bn3d, weight(norm_q), weight(norm_k),
                                        norm_q != nullptr ? norm_q->epsilon : 0.0, heads, epsilon);
}

}  // namespace trestle::models::nn
