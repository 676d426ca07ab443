#include "models/nn/activations.h"

#include "base/torch/operand_watch.h"
#include "models/nn/fused.h"
#include "models/nn/fused_cpu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>

namespace trestle::models::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::atomic<std::int64_t> fused_count{0};

struct Silu : torch::autograd::Function<Silu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    fused::count_call();
    about_to_read({x});
    const at::Tensor input = x.contiguous();
    context->save_for_backward({input});
    at::Tensor y = at::empty_like(input);
    const float* in = fused::values(input);
    float* out = fused::mutable_values(y);
    if (input.is_meta()) return y;
    at::parallel_for(0, input.numel(), fused::kGrain, [&](std::int64_t begin, std::int64_t end) {
      fused::silu_forward(in + begin, out + begin, end - begin);
    });
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables()[0];
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx = at::empty_like(x);
    const float* in = fused::values(x);
    const float* upstream = fused::values(dy);
    float* out = fused::mutable_values(dx);
    if (x.is_meta()) return {dx};
    at::parallel_for(0, x.numel(), fused::kGrain, [&](std::int64_t begin, std::int64_t end) {
      fused::silu_backward(in + begin, upstream + begin, out + begin, end - begin);
    });
    return {dx};
  }
};

}  // namespace

at::Tensor silu(const at::Tensor& x) { return runs_fused(x) ? Silu::apply(x) : at::silu(x); }

at::Tensor gated_silu(const at::Tensor& x) {
  const auto halves = x.chunk(2, -1);
  return halves[0] * at::silu(halves[1]);
}

void fused::count_call() { fused_count.fetch_add(1, std::memory_order_relaxed); }

std::int64_t fused_calls() { return fused_count.load(std::memory_order_relaxed); }

}  // namespace trestle::models::nn
