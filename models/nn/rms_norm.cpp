#include "models/nn/rms_norm.h"

#include "base/torch/operand_watch.h"
#include "models/nn/fused.h"
#include "models/nn/row_kernels.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace trestle::models::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& weight, double epsilon) {
    fused::count_call();
    about_to_read({input, weight});
    const at::Tensor x = input.contiguous();
    const std::int64_t channels = x.size(-1), rows = x.numel() / channels;
    at::Tensor y = at::empty_like(x), rrms = at::empty({rows}, x.options());
    const float *in = fused::values(x), *w = fused::values(weight);
    float *out = fused::mutable_values(y), *kept = fused::mutable_values(rrms);
    fused::for_row_blocks(x, 1, rows, channels, [&](auto, auto, auto row, auto end) {
      fused::rms_norm_forward({end - row, channels, channels}, in + row * channels, w,
                              float(epsilon),
                              /*rectify=*/false, out + row * channels, channels, kept + row);
    });
    context->save_for_backward({x, weight, rrms});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &rrms = saved[2];
    const at::Tensor dy = gradients[0].contiguous();
    const std::int64_t channels = x.size(-1), rows = x.numel() / channels;
    at::Tensor dx = at::empty_like(x);
    at::Tensor dweight = at::zeros({1, fused::blocks_of(rows), channels}, x.options());
    const float *in = fused::values(x), *w = fused::values(weight), *kept = fused::values(rrms),
                *upstream = fused::values(dy);
    float *out = fused::mutable_values(dx), *sums = fused::mutable_values(dweight);
    fused::for_row_blocks(x, 1, rows, channels, [&](auto block, auto, auto row, auto end) {
      fused::rms_norm_backward({end - row, channels, channels}, in + row * channels, w, kept + row,
                               upstream + row * channels, channels, out + row * channels, channels,
                               sums + block * channels);
    });
    return {dx, fused::sum_parts(dweight)[0], {}};
  }
};

}  // namespace

at::Tensor fused_rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return RmsNormFunction::apply(x, weight, epsilon);
}

}  // namespace trestle::models::nn
