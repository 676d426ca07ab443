// The Brownian bridge between two pictures as a diffusion process (ViBT, arXiv:2511.23199), with
// the corrected stabilisation, in reversed time: r = 1 is the source x0, r = 0 the target x1.
//
//   x_r = r x0 + (1 - r) x1 + s sqrt(r (1 - r)) eps
//   v   = (x_r - x1) / r          the velocity a network is asked for (timestep 1000 r)
//   alpha² = 1 + s² (1 - r) / (r rho),  rho = |x1 - x0|² / D
//   loss = mean(((v_net - v) / alpha)²)
//
// Both v and alpha blow up at r -> 0. The code works with w = 1 / alpha and v~ = v / alpha, which
// stay finite everywhere:
//   w  = sqrt(r rho) / sqrt(r rho + s² (1 - r))
//   v~ = sqrt(rho) (sqrt(r) (x0 - x1) + s sqrt(1 - r) eps) / sqrt(r rho + s² (1 - r))
// A pair of identical pictures (rho = 0) gets weight 0.
//
// Everything is computed in fp32, in fp64 when x0 is fp64. Axes: B batch, ... the sample's own.
// LOCAL. THREADS: any. STREAM: the current one.
#pragma once
#include "configs/describe.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace trestle::processes {

/// What a network is trained on at one time per sample.
struct BridgePoint {
  at::Tensor x;         ///< [B, ...] the noised state x_r
  at::Tensor target;    ///< [B, ...] v~
  at::Tensor weight_b;  ///< [B] w
};

/// `time_b` is r in [0, 1], `noise` standard normal; s >= 0 is the noise scale.
BridgePoint bridge_point(const at::Tensor& source, const at::Tensor& target,
                         const at::Tensor& time_b, const at::Tensor& noise, double noise_scale);

/// mean over the sample's axes of (w v - v~)²: [B]. Gradients flow to `velocity` only.
at::Tensor bridge_loss(const at::Tensor& velocity, const BridgePoint& point);

struct BridgeSamplerOptions {
  std::int64_t steps = 28;
  double shift = 5.0;
  std::string method = "sde";

  void describe(configs::Fields& fields);
};

/// r_0 = 1 ... r_N = 0: r_i = shift u / (1 + (shift - 1) u), u = 1 - i/N. shift > 1 spends more
/// steps near the source.
std::vector<double> bridge_times(std::int64_t steps, double shift);

/// v(x [B, ...], r) -> [B, ...].
using VelocityField = std::function<at::Tensor(const at::Tensor& x, double r)>;
/// Standard normal noise of sampling step k, shaped like x.
using StepNoise = std::function<at::Tensor(std::int64_t step)>;

/// From the source to a sample of the target. "sde" is the variance-corrected Euler-Maruyama step
///   x += (r' - r) v + s sqrt((r - r') r' / r) eps        (no noise in the last step),
/// "ode" the same without noise: right for s = 0 only, for s > 0 it yields a conditional mean
/// (ode_warning() has the sentence for people).
at::Tensor sample_bridge(const at::Tensor& source, const VelocityField& velocity,
                         const StepNoise& noise, double noise_scale,
                         const BridgeSamplerOptions& options);

/// The sentence for a sampler that cannot be right, or empty.
std::string ode_warning(const BridgeSamplerOptions& options, double noise_scale);

}  // namespace trestle::processes
