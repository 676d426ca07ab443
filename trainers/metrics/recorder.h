// What a run writes down while it trains: the progress line, metrics.jsonl, TensorBoard events and
// picture grids. These are observers: a full disk costs lines, says so once, and does not end the
// run.
//
// LOCAL; rank 0 has one. THREADS: one.
#pragma once
#include "formats/jsonl.h"
#include "trainers/metrics/events.h"
#include "trainers/metrics/progress.h"
#include "trainers/metrics/run_directory.h"
#include "trainers/options.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace trestle::trainers {

/// The numbers of one step.
struct StepRecord {
  std::int64_t step = 0;     ///< from 0
  std::int64_t samples = 0;  ///< seen by the run, this step included
  double loss = 0, learning_rate = 0, grad_norm = 0;
  double samples_per_s = 0, step_ms = 0, data_wait_ms = 0;
  double checkpoint_wait_ms = 0;  ///< for saves, since the step before was recorded
  std::int64_t bad_samples = 0;   ///< replaced so far, distinct
  /// Beside the run's first objective in its first branch: "discriminator", "branch-1",
  /// "discriminator/branch-1".
  struct Further {
    std::string name;
    double loss = 0, grad_norm = 0;
  };
  std::vector<Further> further = {};
  std::map<std::string, double> metrics = {};  ///< the task's, under their names
};

class Recorder {
 public:
  /// Steps `done` of `total` are behind, in `restarts` earlier starts and this one. Throws
  /// Error(environment) where files cannot be made.
  Recorder(const RunDirectory& directory, std::int64_t done, std::int64_t total,
           std::int64_t restarts, const LogOptions& options);

  void step(const StepRecord& record);
  /// The grid after `done` steps.
  void picture(std::int64_t done, const formats::Picture& grid);
  /// Ends the progress line.
  void close() { progress_.close(); }

 private:
  /// Runs `write`; what it cannot write is said once and left out.
  void observe(const std::function<void()>& write);

  std::int64_t restarts_;
  Progress progress_;
  formats::JsonlWriter metrics_;
  std::optional<Events> events_;
  bool warned_ = false;
};

}  // namespace trestle::trainers
