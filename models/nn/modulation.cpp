#include "models/nn/modulation.h"

#include "base/torch/operand_watch.h"
#include "models/nn/fused.h"
#include "models/nn/row_kernels.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace trestle::models::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor block_sums(const at::Tensor& x_bnd) {
  return at::zeros({x_bnd.size(0), fused::blocks_of(x_bnd.size(1)), x_bnd.size(2)},
                   x_bnd.options());
}

struct ModulatedNorm : torch::autograd::Function<ModulatedNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_bnd,
                            const at::Tensor& shift_b1d, const at::Tensor& scale_b1d,
                            double epsilon) {
    fused::count_call();
    about_to_read({x_bnd, shift_b1d, scale_b1d});
    const at::Tensor x = x_bnd.contiguous(), shift = shift_b1d.contiguous(),
                     scale = scale_b1d.contiguous();
    const std::int64_t channels = x.size(2);
    at::Tensor y = at::empty_like(x);
    at::Tensor statistics = at::empty({x.size(0) * x.size(1), 2}, x.options());
    const float *in = fused::values(x), *shifts = fused::values(shift),
                *scales = fused::values(scale);
    float *out = fused::mutable_values(y), *kept = fused::mutable_values(statistics);
    fused::for_row_blocks(
        x, x.size(0), x.size(1), channels, [&](auto, auto sample, auto row, auto end) {
          fused::modulated_norm_forward({end - row, channels, channels}, in + row * channels,
                                        shifts + sample * channels, scales + sample * channels,
                                        float(epsilon), out + row * channels, kept + row * 2);
        });
    context->save_for_backward({x, scale, statistics});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1], &statistics = saved[2];
    const at::Tensor dy = gradients[0].contiguous();
    const std::int64_t channels = x.size(2);
    at::Tensor dx = at::empty_like(x), dshift = block_sums(x), dscale = block_sums(x);
    const float *in = fused::values(x), *scales = fused::values(scale),
                *kept = fused::values(statistics), *upstream = fused::values(dy);
    float *out = fused::mutable_values(dx), *shifts = fused::mutable_values(dshift),
          *scale_sums = fused::mutable_values(dscale);
    fused::for_row_blocks(
        x, x.size(0), x.size(1), channels, [&](auto block, auto sample, auto row, auto end) {
          fused::modulated_norm_backward({end - row, channels, channels}, in + row * channels,
                                         scales + sample * channels, kept + row * 2,
                                         upstream + row * channels, out + row * channels,
                                         shifts + block * channels, scale_sums + block * channels);
        });
    return {dx, fused::sum_parts(dshift).unsqueeze(1), fused::sum_parts(dscale).unsqueeze(1), {}};
  }
};

struct GatedAdd : torch::autograd::Function<GatedAdd> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_bnd,
                            const at::Tensor& gate_b1d, const at::Tensor& y_bnd) {
    fused::count_call();
    about_to_read({x_bnd, gate_b1d, y_bnd});
    const at::Tensor x = x_bnd.contiguous(), gate = gate_b1d.contiguous(), y = y_bnd.contiguous();
    const std::int64_t channels = x.size(2);
    at::Tensor out = at::empty_like(x);
    const float *from = fused::values(x), *gates = fused::values(gate), *added = fused::values(y);
    float* to = fused::mutable_values(out);
    fused::for_row_blocks(
        x, x.size(0), x.size(1), channels, [&](auto, auto sample, auto row, auto end) {
          fused::gated_add_forward({end - row, channels, channels}, from + row * channels,
                                   gates + sample * channels, added + row * channels,
                                   to + row * channels);
        });
    context->save_for_backward({gate, y});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &y = saved[1];
    const at::Tensor dout = gradients[0].contiguous();
    const std::int64_t channels = y.size(2);
    at::Tensor dy = at::empty_like(y), dgate = block_sums(y);
    const float *gates = fused::values(gate), *added = fused::values(y),
                *upstream = fused::values(dout);
    float *to = fused::mutable_values(dy), *sums = fused::mutable_values(dgate);
    fused::for_row_blocks(
        y, y.size(0), y.size(1), channels, [&](auto block, auto sample, auto row, auto end) {
          fused::gated_add_backward({end - row, channels, channels}, gates + sample * channels,
                                    added + row * channels, upstream + row * channels,
                                    to + row * channels, sums + block * channels);
        });
    return {dout, fused::sum_parts(dgate).unsqueeze(1), dy};
  }
};

}  // namespace

at::Tensor modulate(const LayerNorm& norm, const at::Tensor& x_bnd, const at::Tensor& shift_b1d,
                    const at::Tensor& scale_b1d) {
  if (runs_fused(x_bnd) && !norm.weight.defined()) {
    return ModulatedNorm::apply(x_bnd, shift_b1d, scale_b1d, norm.epsilon);
  }
  return norm(x_bnd) * (1 + scale_b1d) + shift_b1d;
}

at::Tensor gated_add(const at::Tensor& x_bnd, const at::Tensor& gate_b1d, const at::Tensor& y_bnd) {
  if (runs_fused(x_bnd)) return GatedAdd::apply(x_bnd, gate_b1d, y_bnd);
  return x_bnd + gate_b1d * y_bnd;
}

}  // namespace trestle::models::nn
