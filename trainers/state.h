// The state that decides a run's future, gathered by visiting its parts: the engine's (parameters,
// optimizer, averages), the task's own, and the counters. One visitor saves and loads. LOCAL.
// THREADS: one.
#pragma once
#include "checkpoint/state_tree.h"
#include "trainers/engine.h"
#include "trainers/task.h"

#include <cstdint>
#include <string>

namespace trestle::trainers {

/// Where a run stands.
struct RunCounters {
  std::int64_t step = 0;          ///< steps done
  std::int64_t position = 0;      ///< samples done: the next sample's position
  std::string bad_samples;        ///< ids of the samples that were replaced so far
  double wall_s = 0;              ///< time spent training, first step to last, saves included
  std::int64_t skips_in_row = 0;  ///< steps without update, up to the last one
};

struct TrainingState {
  Engine& engine;  ///< engine.publish() after loading
  Task& task;
  RunCounters& counters;
  int branch = 0;

  checkpoint::Visitor visitor();
};

/// Where the state of a branch stands: under branches/<branch>/, so that names of different
/// branches never meet; at the top where there is one.
checkpoint::Scope branch_scope(checkpoint::Scope& root, int branch, int branches);

}  // namespace trestle::trainers
