#include "trainers/optim/fused_adamw.h"

#include "base/error.h"
#include "trainers/optim/fused_adamw_cpu.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

namespace trestle::trainers {
namespace {

constexpr std::array<std::string_view, 2> kStateNames = {"exp_avg", "exp_avg_sq"};

template <class Scalar>
AdamWFactors<Scalar> factors(const AdamWOptions& options, const StepScalars& scalars) {
  const double beta1 = options.adam_beta1, beta2 = options.adam_beta2;
  const double bias_correction1 = 1.0 - std::pow(beta1, double(scalars.count));
  const double bias_correction2 = 1.0 - std::pow(beta2, double(scalars.count));
  const auto rounded = [](double value) { return static_cast<Scalar>(value); };
  return {.gradient_scale = rounded(scalars.gradient_scale),
          .keep = rounded(1.0 - scalars.learning_rate * options.weight_decay),
          .one_minus_beta1 = rounded(1.0 - beta1),
          .beta2 = rounded(beta2),
          .one_minus_beta2 = rounded(1.0 - beta2),
          .step_size = rounded(scalars.learning_rate / bias_correction1),
          .root_bias_correction2 = rounded(std::sqrt(bias_correction2)),
          .epsilon = rounded(options.adam_epsilon)};
}

template <class Scalar>
AdamWPlanes<Scalar> planes(const Shard& shard, const StepScalars& scalars) {
  AdamWPlanes<Scalar> planes{.gradient = shard.gradient.mutable_data_ptr<Scalar>(),
                             .master = shard.master.mutable_data_ptr<Scalar>(),
                             .exp_avg = shard.state[0].mutable_data_ptr<Scalar>(),
                             .exp_avg_sq = shard.state[1].mutable_data_ptr<Scalar>(),
                             .averages = {},
                             .zero_gradient = scalars.zero_gradient};
  for (const AveragePlane& average : shard.averages) {
    planes.averages.push_back({.values = average.values.mutable_data_ptr<Scalar>(),
                               .weight = static_cast<Scalar>(1.0 - average.decay)});
  }
  if (shard.parameter.defined()) {
    if (shard.parameter.scalar_type() == at::kBFloat16) {
      planes.bfloat16_parameter =
          reinterpret_cast<std::uint16_t*>(shard.parameter.mutable_data_ptr<at::BFloat16>());
    } else {
      planes.parameter = shard.parameter.mutable_data_ptr<Scalar>();
    }
  }
  return planes;
}

}  // namespace

std::span<const std::string_view> FusedAdamW::state_names() const { return kStateNames; }

void FusedAdamW::step(const Shard& shard, const StepScalars& scalars) const {
  check_shard(shard, kStateNames.size());
  TRESTLE_ASSERT(scalars.count >= 1, "steps count from 1, not {}", scalars.count);
  if (shard.master.numel() == 0) return;
  AT_DISPATCH_FLOATING_TYPES(shard.master.scalar_type(), "fused_adamw", [&] {
    const auto where = planes<scalar_t>(shard, scalars);
    const auto how = factors<scalar_t>(options_, scalars);
    switch (shard.master.device().type()) {  // a kernel for another device is one more case
      case at::kCPU:
        return adamw_pass_cpu(where, how, shard.master.numel());
      default:
        TRESTLE_ASSERT(false, "the fused AdamW has no kernel for {}", shard.master.device().str());
    }
  });
}

}  // namespace trestle::trainers
