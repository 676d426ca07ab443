// Where the time of a recipe's training step goes on these ranks: first each rank computes alone,
// without communication, then all train together, and the step is taken apart. Nothing is saved,
// no weights are kept.
//
//   const StepMeasurement found = measure_steps(recipe, world, {.steps = 20});
//   found.median.exposed_s; found.alone.forward_s; found.trace;
//
// COLLECTIVE, every rank gets the same. THREADS: one. While it runs it is the observer of all of
// this rank's operations.
#pragma once
#include "base/median.h"
#include "base/stop.h"
#include "configs/recipe.h"
#include "dist/communicator.h"
#include "formats/calibration.h"
#include "trainers/step_prediction.h"
#include "trainers/step_timeline.h"

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::trainers {

struct StepBenchmarkOptions {
  std::int64_t steps = 20;   ///< that are measured
  std::int64_t warm_up = 3;  ///< before them, both alone and together
  StopToken stop = {};
};

struct StepMeasurement {
  struct Rank {
    std::string host;
    StepTimes median;
    ComputeTimes alone;             ///< a step's work, of the whole model's optimizer state
    std::int64_t samples = 0;       ///< its share of a step
    std::int64_t tensor_bytes = 0;  ///< most at once while it warmed up
  };
  std::vector<Rank> ranks;
  StepTimes median;         ///< over the steps, of the ranks' mean
  std::vector<Mode> modes;  ///< of the steps' times
  double samples_per_s = 0;
  formats::Calibration::Compute compute;  ///< from the times alone, the slowest rank's
  std::string trace;                      ///< the measured steps for chrome://tracing
};

/// `recipe` has been checked for these ranks. dist.paranoid and everything between steps is left
/// out.
StepMeasurement measure_steps(const configs::Recipe& recipe, const dist::Communicator& world,
                              const StepBenchmarkOptions& options);

}  // namespace trestle::trainers
