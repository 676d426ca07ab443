#include "processes/brownian_bridge.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <cmath>

namespace trestle::processes {
namespace {

at::ScalarType work_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// [B] -> [B, 1, ...], to multiply samples shaped like x.
at::Tensor per_sample(const at::Tensor& value_b, const at::Tensor& x) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return value_b.reshape(shape);
}

}  // namespace

BridgePoint bridge_point(const at::Tensor& source, const at::Tensor& target,
                         const at::Tensor& time_b, const at::Tensor& noise, double noise_scale) {
  const auto dtype = work_dtype(source);
  const at::Tensor x0 = source.to(dtype), x1 = target.to(dtype), eps = noise.to(dtype);
  const at::Tensor r_b = time_b.to(dtype);
  const at::Tensor r = per_sample(r_b, x0);
  const at::Tensor rho_b = (x1 - x0).square().flatten(1).mean(1);

  at::Tensor x = r * x0 + (1 - r) * x1;
  if (noise_scale == 0) {  // w = 1 and v~ = x0 - x1 for every r; the general form is 0/0 at r = 0
    return {.x = x, .target = x0 - x1, .weight_b = (rho_b > 0).to(dtype)};
  }
  x = x + noise_scale * (r * (1 - r)).sqrt() * eps;

  const at::Tensor spread_b = (r_b * rho_b + noise_scale * noise_scale * (1 - r_b)).sqrt();
  // spread = 0 needs rho = 0 (and r = 1): the pair then counts nothing, whatever the divisor.
  const at::Tensor divisor_b = at::where(spread_b > 0, spread_b, at::ones_like(spread_b));
  const at::Tensor weight_b = (r_b * rho_b).sqrt() / divisor_b;
  const at::Tensor pull = r.sqrt() * (x0 - x1) + noise_scale * (1 - r).sqrt() * eps;
  return {.x = x, .target = per_sample(rho_b.sqrt() / divisor_b, x0) * pull, .weight_b = weight_b};
}

at::Tensor bridge_loss(const at::Tensor& velocity, const BridgePoint& point) {
  const at::Tensor v = velocity.to(point.target.scalar_type());
  const at::Tensor miss = per_sample(point.weight_b, v) * v - point.target;
  return miss.square().flatten(1).mean(1);
}

void BridgeSamplerOptions::describe(configs::Fields& f) {
  f.field("steps", steps, {.help = "network evaluations of one sample", .min = 1});
  f.field("shift", shift,
          {.help = "time grid: above 1 spends more steps near the source, 1 is even", .min = 0.01});
  f.field("method", method,
          {.help = "sde adds the bridge's noise, ode is right only for task.noise_scale = 0",
           .choices = {"sde", "ode"}});
}

std::vector<double> bridge_times(std::int64_t steps, double shift) {
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(steps) + 1);
  for (std::int64_t i = 0; i <= steps; ++i) {
    const double u = 1.0 - double(i) / double(steps);
    times.push_back(shift * u / (1.0 + (shift - 1.0) * u));
  }
  return times;
}

at::Tensor sample_bridge(const at::Tensor& source, const VelocityField& velocity,
                         const StepNoise& noise, double noise_scale,
                         const BridgeSamplerOptions& options) {
  const bool stochastic = options.method == "sde" && noise_scale > 0;
  const auto times = bridge_times(options.steps, options.shift);
  at::Tensor x = source.to(work_dtype(source));
  for (std::int64_t k = 0; k < options.steps; ++k) {
    const double r = times[k], next = times[k + 1];
    x = x + (next - r) * velocity(x, r).to(x.scalar_type());
    if (stochastic && k + 1 < options.steps) {
      x = x + noise_scale * std::sqrt((r - next) * next / r) * noise(k).to(x.scalar_type());
    }
  }
  return x;
}

std::string ode_warning(const BridgeSamplerOptions& options, double noise_scale) {
  if (options.method != "ode" || noise_scale == 0) return {};
  return fmt::format(
      "sample.method = \"ode\" with task.noise_scale = {} gives blurred means (the network learnt "
      "the "
      "drift of a stochastic process). Use sample.method = \"sde\".",
      noise_scale);
}

}  // namespace trestle::processes
