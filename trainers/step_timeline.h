// When a rank computed, waited and communicated in its steps: the phases that the engine tells and
// the life of every collective, put together into the parts of each step and into the events of a
// Chrome trace.
//
//   StepTimeline timeline;
//   world.observe(&timeline);                   // collectives
//   timeline.start();                           // after a barrier: where the trace begins
//   { timeline.begin_step(step); engine.step({..., .observer = &timeline}); timeline.end_step(); }
//   world.observe(nullptr);
//   timeline.parts();                           // of the steps since start()
//   chrome_trace({timeline.chrome_events(rank, "rank 0"), ...});
//
// LOCAL. THREADS: the run's main thread, and operations as dist/operation_observer.h says. Read
// after observe(nullptr).
#pragma once
#include "dist/operation_observer.h"
#include "trainers/step.h"

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace trestle::trainers {

/// Of one step on one rank. The first six add up to step_s.
struct StepTimes {
  double forward_s = 0, backward_s = 0;  ///< without the waiting in them
  double optimizer_s = 0;                ///< and averages
  double data_wait_s = 0;
  double exposed_s = 0;  ///< waiting for collectives, and so for slower ranks, wherever it was
  double other_s = 0;    ///< norm, checks, what joins them
  double step_s = 0;
  double communication_s = 0;  ///< some bucket's reduction or gather was under way
  double hidden_s = 0;         ///< and this rank did not wait for it
};

class StepTimeline : public StepObserver, public dist::OperationObserver {
 public:
  using Clock = std::chrono::steady_clock;
  /// Of what is kept, only that which begins from now on is told; times count from the origin.
  void start(Clock::time_point origin = Clock::now());
  void begin_step(Step step);
  void end_step();
  void enter(StepPhase phase) override;

  std::uint64_t queued(const dist::OperationInfo& operation) override;
  void started(std::uint64_t id) override;
  void finished(std::uint64_t id) override;

  std::vector<StepTimes> parts() const;
  /// JSON objects, joined by commas: a lane for the phases and one for each bucket, of the process
  /// `rank`.
  std::string chrome_events(int rank, const std::string& process) const;

 private:
  struct PhaseSpan {
    StepPhase phase;
    double begin_s, end_s, waited_s;
  };
  struct StepSpan {
    std::int64_t step;
    double begin_s, end_s;
    double waited_s;  ///< outside its phases
    std::vector<PhaseSpan> phases;
  };
  struct Operation {
    std::string lane, kind;
    bool is_bucket;
    std::int64_t bytes;
    double queued_s, started_s, finished_s;  ///< 0: not yet
  };
  double now() const;
  void close_phase();

  Clock::time_point origin_ = Clock::now();
  std::vector<StepSpan> steps_;
  bool phase_is_open_ = false;
  double waited_before_ = 0;  ///< dist::waited_s() when what is open began

  mutable std::mutex mutex_;  // operations only
  std::vector<Operation> operations_;
};

/// The whole file for chrome://tracing or ui.perfetto.dev, of what each rank told.
std::string chrome_trace(const std::vector<std::string>& events_of_ranks);

}  // namespace trestle::trainers
