#include "models/dc_ae/blocks.h"
#include "models/nn/fused.h"
#include "models/nn/linear_attention.h"

#include <ATen/ATen.h>

// Axes as in blocks.h. A row of channels [.., G 3E] is G groups, each a head's q, k and v.

namespace trestle::models::dc_ae {
namespace {

constexpr double kEpsilon = 1e-15;

/// Σ_m (q_n·k_m) v_m / (Σ_m q_n·k_m + epsilon) by way of Σ_m v_m k_mᵀ, in fp32 whatever the dtype.
at::Tensor linear_core(const at::Tensor& q_bgen, const at::Tensor& k_bgen,
                       const at::Tensor& v_bgen) {
  // A row of ones under v makes the same products yield the normaliser.
  const at::Tensor v_bgfn = at::constant_pad_nd(v_bgen, {0, 0, 0, 1}, 1.0);
  const at::Tensor state_bgfe = at::matmul(v_bgfn, k_bgen.transpose(2, 3));
  const at::Tensor sums_bgfn = at::matmul(state_bgfe, q_bgen);
  return sums_bgfn.slice(2, 0, -1) / (sums_bgfn.slice(2, -1) + kEpsilon);
}

/// The same by way of all N x N products, of which only the normalising runs in fp32.
at::Tensor quadratic_core(const at::Tensor& q_bgen, const at::Tensor& k_bgen,
                          const at::Tensor& v_bgen) {
  at::Tensor scores_bgnn = at::matmul(k_bgen.transpose(2, 3), q_bgen).to(at::kFloat);
  scores_bgnn = scores_bgnn / (scores_bgnn.sum(2, /*keepdim=*/true) + kEpsilon);
  return at::matmul(v_bgen, scores_bgnn.to(v_bgen.scalar_type()));
}

/// The attention of rows [B, G 3E, h, w] -> [B, G E, h, w], with the reference's operations in the
/// reference's layouts: fp64 runs are compared to more digits than the fp32 parts have.
at::Tensor attend(const at::Tensor& rows_bchw, std::int64_t head_dim, bool is_linear) {
  const std::int64_t batch = rows_bchw.size(0), height = rows_bchw.size(2),
                     width = rows_bchw.size(3);
  const at::Tensor rows = is_linear ? rows_bchw.to(at::kFloat) : rows_bchw;
  const auto qkv = rows.reshape({batch, -1, 3 * head_dim, height * width}).chunk(3, 2);
  const at::Tensor q_bgen = rectified(qkv[0]), k_bgen = rectified(qkv[1]);
  const at::Tensor out_bgen =
      is_linear ? linear_core(q_bgen, k_bgen, qkv[2]) : quadratic_core(q_bgen, k_bgen, qkv[2]);
  return out_bgen.to(rows_bchw.scalar_type()).reshape({batch, -1, height, width});
}

/// The linear form in one pass; its kernel wants all q before all k before all v.
at::Tensor attend_fused(const at::Tensor& rows_bchw, std::int64_t head_dim) {
  const at::Tensor by_kind = channels_last(rows_bchw)
                                 .flatten(1, 2)
                                 .unflatten(2, {-1, 3, head_dim})
                                 .transpose(2, 3);  // [B, N, 3, G, E]
  const std::int64_t groups = by_kind.size(3);
  return channels_second(
      nn::linear_attention(by_kind.flatten(2), nullptr, nullptr, groups, kEpsilon)
          .unflatten(1, {rows_bchw.size(2), rows_bchw.size(3)}));
}

}  // namespace

MultiscaleAttention::MultiscaleAttention(const nn::Scope& scope, std::int64_t channels,
                                         std::int64_t e, const std::vector<std::int64_t>& kernels)
    : head_dim(e),
      to_q(scope / "to_q", channels, channels / e * e, Bias::no),
      to_k(scope / "to_k", channels, channels / e * e, Bias::no),
      to_v(scope / "to_v", channels, channels / e * e, Bias::no),
      scales([&] {
        const std::int64_t heads = channels / e, row = 3 * heads * e;
        std::vector<Scale> made;
        for (std::size_t i = 0; i < kernels.size(); ++i) {
          const nn::Scope at = scope / "to_qkv_multiscale" / std::int64_t(i);
          made.push_back(
              {.proj_in = Conv(
                   at / "proj_in",
                   {.in = row, .out = row, .kernel = kernels[i], .groups = row, .bias = Bias::no}),
               .proj_out = Conv(
                   at / "proj_out",
                   {.in = row, .out = row, .kernel = 1, .groups = 3 * heads, .bias = Bias::no})});
        }
        return made;
      }()),
      to_out(scope / "to_out", channels / e * e * std::int64_t(1 + kernels.size()), channels,
             Bias::no),
      norm_out(scope / "norm_out", channels) {}

at::Tensor MultiscaleAttention::operator()(const at::Tensor& x_bchw) const {
  const at::Tensor x_bhwc = channels_last(x_bchw);
  const at::Tensor row = channels_second(at::cat({to_q(x_bhwc), to_k(x_bhwc), to_v(x_bhwc)}, 3));
  std::vector<at::Tensor> rows = {row};
  for (const auto& scale : scales) rows.push_back(scale.proj_out(scale.proj_in(row)));
  const at::Tensor all = at::cat(rows, 1);  // [B, G 3E, h, w]

  // The reference compares the pixels with the channels of *a head*.
  const bool is_linear = all.size(2) * all.size(3) > head_dim;
  const at::Tensor out = is_linear && nn::runs_fused(all) ? attend_fused(all, head_dim)
                                                          : attend(all, head_dim, is_linear);
  return norm_out(channels_second(to_out(channels_last(out)))) + x_bchw;
}

}  // namespace trestle::models::dc_ae
