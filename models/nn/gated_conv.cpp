#include "models/nn/gated_conv.h"

#include "base/error.h"
#include "base/torch/operand_watch.h"
#include "models/nn/fused.h"
#include "models/nn/gated_conv_kernels.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace trestle::models::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Calls body(sample, first channel, scratch) for every sample and block of channels of x, unless
/// it is on the meta device.
template <class Body>
void for_channel_blocks(const at::Tensor& x, const fused::GatedConv& conv,
                        std::int64_t scratch_floats, const Body& body) {
  if (x.is_meta()) return;
  const std::int64_t samples = x.size(0), blocks = (conv.half + conv.pairs - 1) / conv.pairs;
  at::parallel_for(0, samples * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> scratch(static_cast<std::size_t>(scratch_floats));
    for (std::int64_t i = begin; i < end; ++i) {
      body(i / blocks, i % blocks * conv.pairs, scratch.data());
    }
  });
}

struct GatedConvFunction : torch::autograd::Function<GatedConvFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_bnc,
                            const at::Tensor& bias, const at::Tensor& conv_weight,
                            const at::Tensor& conv_bias, std::int64_t height) {
    fused::count_call();
    about_to_read({x_bnc, bias, conv_weight, conv_bias});
    const at::Tensor x = x_bnc.contiguous(), b = bias.contiguous(), w = conv_weight.contiguous(),
                     cb = conv_bias.contiguous();
    context->save_for_backward({x, b, w, cb});
    context->saved_data["height"] = height;
    const fused::GatedConv conv = describe(x, b, w, cb, height);
    at::Tensor y = at::empty({x.size(0), x.size(1), conv.half}, x.options());
    const float* in = fused::values(x);
    float* out = fused::mutable_values(y);
    for_channel_blocks(x, conv, conv.forward_scratch(),
                       [&](std::int64_t sample, std::int64_t first, float* scratch) {
                         fused::gated_conv_forward(
                             conv, first, in + sample * conv.tokens() * 2 * conv.half,
                             out + sample * conv.tokens() * conv.half, scratch);
                       });
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[2];
    const at::Tensor dy = gradients[0].contiguous();
    const fused::GatedConv conv =
        describe(x, saved[1], w, saved[3], context->saved_data["height"].toInt());
    const std::int64_t channels = 2 * conv.half, per_sample = fused::kParameters * channels;
    at::Tensor dx = at::empty_like(x);
    at::Tensor dparameters = at::empty({1, x.size(0), per_sample}, x.options());
    const float *in = fused::values(x), *upstream = fused::values(dy);
    float *out = fused::mutable_values(dx), *sums = fused::mutable_values(dparameters);
    for_channel_blocks(x, conv, conv.backward_scratch(),
                       [&](std::int64_t sample, std::int64_t first, float* scratch) {
                         const std::int64_t start = sample * conv.tokens();
                         fused::gated_conv_backward(
                             conv, first, in + start * channels, upstream + start * conv.half,
                             out + start * channels, sums + sample * per_sample, scratch);
                       });
    const at::Tensor total = fused::sum_parts(dparameters).view({fused::kParameters, channels});
    const at::Tensor dweight = total.slice(0, 0, fused::kTaps).t().contiguous().view_as(w);
    return {dx, total[fused::kTaps + 1], dweight, total[fused::kTaps], {}};
  }

 private:
  static fused::GatedConv describe(const at::Tensor& x, const at::Tensor& bias,
                                   const at::Tensor& conv_weight, const at::Tensor& conv_bias,
                                   std::int64_t height) {
    const std::int64_t width = x.size(1) / height, half = x.size(2) / 2;
    return {.height = height,
            .width = width,
            .half = half,
            .bias = fused::values(bias),
            .taps = fused::values(conv_weight),
            .conv_bias = fused::values(conv_bias),
            .pairs = fused::block_pairs(height, width, half)};
  }
};

}  // namespace

at::Tensor gated_conv(const at::Tensor& x_bnc, const at::Tensor& bias,
                      const at::Tensor& conv_weight, const at::Tensor& conv_bias,
                      std::int64_t height, std::int64_t width) {
  TRESTLE_ASSERT(x_bnc.size(1) == height * width && height > 0 && runs_fused(x_bnc),
                 "{} tokens are no picture of {} x {} floats on the CPU", x_bnc.size(1), height,
                 width);
  return GatedConvFunction::apply(x_bnc, bias, conv_weight, conv_bias, height);
}

}  // namespace trestle::models::nn
