// Ends a run in time: before the batch system ends the job that it runs in, and early enough for a
// last save.
//
//   JobEnd job_end({.before_end_s = 120, .ask = ask_slurm, .stop = [&] { source.request(...); }});
//   job_end.watch();                                   // a thread asks and decides, once a second
//   ... job_end.took_step(seconds); job_end.took_save(seconds); ...
//
// The end is asked for again every minute, because limits are changed while jobs run. An answer
// that does not come keeps nobody waiting: the last known end counts, and the first failure is
// said.
//
// LOCAL: on one rank; the stop that it asks for becomes everybody's (dist/stop_relay.h). THREADS:
// any may call took_*(); poll() is the thread's, or a test's.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace trestle::trainers {

class JobEnd {
 public:
  using Clock = std::chrono::system_clock;
  using TimePoint = Clock::time_point;
  /// When the job ends; nothing where it has no limit. Throws where that cannot be found out. May
  /// take long; `give_up` becomes true when nobody waits for the answer any more.
  using Ask = std::function<std::optional<TimePoint>(const std::function<bool()>& give_up)>;

  struct Parts {
    double before_end_s = 120;  ///< the least time that is left for leaving
    Ask ask;
    std::function<void()> stop;  ///< called once
    std::function<TimePoint()> now = Clock::now;
  };

  explicit JobEnd(Parts parts) : parts_(std::move(parts)) {}
  ~JobEnd();
  JobEnd(const JobEnd&) = delete;
  JobEnd& operator=(const JobEnd&) = delete;

  /// Polls from now on, on a thread that no signal reaches.
  void watch();

  /// What a step and a save cost; the longest of each counts.
  void took_step(double seconds) { keep_longest(longest_step_s_, seconds); }
  void took_save(double seconds) { keep_longest(longest_save_s_, seconds); }

  /// Asks when that is due, and asks the run to stop when it is time. True from then on.
  bool poll();

  /// How long before its end the run stops: as long as the recipe says, or as a step, a save half
  /// as long again as the longest so far, and leaving take.
  double needed_s() const;

 private:
  static void keep_longest(std::atomic<double>& longest, double seconds);
  void ask();
  bool decide();

  Parts parts_;
  std::atomic<double> longest_step_s_{0}, longest_save_s_{0};
  std::optional<TimePoint> end_, next_question_;
  bool has_failed_ = false, stopped_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace trestle::trainers
