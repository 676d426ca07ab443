#include "trainers/optim/adamw.h"

#include "base/error.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <cmath>

namespace trestle::trainers {
namespace {

struct AdamWStep {
  double learning_rate, gradient_scale, beta1, beta2, epsilon, weight_decay;
  double bias_correction1, bias_correction2;
};

template <class Scalar>
void adamw_update(Scalar* p, const Scalar* grad, Scalar* m, Scalar* v, std::int64_t count,
                  const AdamWStep& s) {
  const auto scale = static_cast<Scalar>(s.gradient_scale);
  const auto keep = static_cast<Scalar>(1.0 - s.learning_rate * s.weight_decay);
  const auto one_minus_beta1 = static_cast<Scalar>(1.0 - s.beta1);
  const auto beta2 = static_cast<Scalar>(s.beta2);
  const auto one_minus_beta2 = static_cast<Scalar>(1.0 - s.beta2);
  const auto step_size = static_cast<Scalar>(s.learning_rate / s.bias_correction1);
  const auto root2 = static_cast<Scalar>(std::sqrt(s.bias_correction2));
  const auto epsilon = static_cast<Scalar>(s.epsilon);
  for (std::int64_t i = 0; i < count; ++i) {
    const Scalar g = grad[i] * scale;
    m[i] += one_minus_beta1 * (g - m[i]);
    v[i] = beta2 * v[i] + one_minus_beta2 * g * g;
    p[i] = p[i] * keep - step_size * m[i] / (std::sqrt(v[i]) / root2 + epsilon);
  }
}

}  // namespace

void AdamWOptions::describe(configs::Fields& f) {
  f.field("learning_rate", learning_rate, {.help = "peak learning rate", .above = 0});
  f.field("adam_beta1", adam_beta1, {.help = "decay of the gradients' mean", .min = 0, .below = 1});
  f.field("adam_beta2", adam_beta2,
          {.help = "decay of the gradients' mean square", .min = 0, .below = 1});
  f.field("adam_epsilon", adam_epsilon, {.help = "added to the root mean square", .above = 0});
  f.field("weight_decay", weight_decay, {.help = "decoupled weight decay", .min = 0});
}

AdamW::AdamW(std::vector<models::nn::NamedParameter> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const auto& parameter : parameters_) {
    const at::Tensor value = parameter.tensor.detach();
    TRESTLE_ASSERT(value.is_contiguous() && value.device().is_cpu(), "parameter {}",
                   parameter.name);
    exp_avg_.push_back(at::zeros_like(value));
    exp_avg_sq_.push_back(at::zeros_like(value));
  }
}

void AdamW::step(double learning_rate, double gradient_scale,
                 std::span<const at::Tensor> gradients) {
  TRESTLE_ASSERT(gradients.size() == parameters_.size(), "{} gradients", gradients.size());
  ++count_;
  const AdamWStep s{.learning_rate = learning_rate,
                    .gradient_scale = gradient_scale,
                    .beta1 = options_.adam_beta1,
                    .beta2 = options_.adam_beta2,
                    .epsilon = options_.adam_epsilon,
                    .weight_decay = options_.weight_decay,
                    .bias_correction1 = 1.0 - std::pow(options_.adam_beta1, double(count_)),
                    .bias_correction2 = 1.0 - std::pow(options_.adam_beta2, double(count_))};
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor value = parameters_[i].tensor.detach();
    const at::Tensor gradient = gradients[i].contiguous();
    AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "adamw", [&] {
      adamw_update(value.mutable_data_ptr<scalar_t>(), gradient.const_data_ptr<scalar_t>(),
                   exp_avg_[i].mutable_data_ptr<scalar_t>(),
                   exp_avg_sq_[i].mutable_data_ptr<scalar_t>(), value.numel(), s);
    });
  }
}

void AdamW::state(checkpoint::Scope& counts, checkpoint::Scope& planes) {
  counts.number("count", count_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    checkpoint::Scope own = planes.child(parameters_[i].name);
    own.tensor("exp_avg", exp_avg_[i]);
    own.tensor("exp_avg_sq", exp_avg_sq_[i]);
  }
}

}  // namespace trestle::trainers
