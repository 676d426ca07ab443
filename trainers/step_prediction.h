// How long a step will take: what communication costs (a calibration) laid against what computing
// takes, bucket by bucket as the engine goes.
//
//   const std::string why_not = why_no_prediction(plan, calibration);
//   predict(plan, {.forward_s = ..., ...}, calibration).step_s;
//
// The model. Backward makes gradients evenly over the parameters, last layers first; a bucket is
// reduced once its last gradient is there and the bucket before it is through. When backward and
// reductions have ended, the optimizer steps bucket after bucket, first layers first, and each is
// gathered once it is stepped and the one before it has come; forward reads parameters evenly and
// waits for the bucket that it comes to. With more micro steps only the last backward pass reduces
// (each of them where dist.shard = "gradients"), and only the first forward pass waits. A transfer
// takes latency + bytes / bandwidth, and while it is under way computing loses the share of its
// speed that was measured.
//
// LOCAL. THREADS: any.
#pragma once
#include "configs/recipe.h"
#include "formats/calibration.h"
#include "trainers/plan.h"

#include <optional>
#include <string>

namespace trestle::trainers {

/// A step's own work on one rank, without communication.
struct ComputeTimes {
  double forward_s = 0, backward_s = 0, optimizer_s = 0;
};

struct StepPrediction {
  ComputeTimes compute = {};
  double reduce_s = 0, gather_s = 0;  ///< sums over the transfers
  double step_s = 0;
  /// With links in the slow one of their two modes, where that was seen when they were measured and
  /// makes a difference.
  std::optional<double> slow_step_s = {};
};

/// COMPUTE as the calibration has it, for this plan's share of samples and elements. Empty text and
/// the times; or why it does not hold for this recipe.
struct ComputeFound {
  ComputeTimes times;
  std::string why_not;
};
ComputeFound compute_from(const Plan& plan, const formats::Calibration& calibration,
                          const configs::Recipe& recipe);

/// Why `calibration` cannot say what this plan's collectives cost; empty: it can.
std::string why_no_prediction(const Plan& plan, const formats::Calibration& calibration);
/// Wants why_no_prediction() to be empty.
StepPrediction predict(const Plan& plan, const ComputeTimes& compute,
                       const formats::Calibration& calibration);

}  // namespace trestle::trainers
