#include "trainers/job_end.h"

#include "base/deaf_thread.h"
#include "base/log.h"

#include <algorithm>
#include <exception>

namespace trestle::trainers {
namespace {

using std::chrono::seconds;

constexpr seconds kBetweenQuestions{60};
constexpr seconds kBetweenPolls{1};
/// For what comes after the save: MPI_Finalize, threads that end, the batch script.
constexpr double kLeavingS = 10;
/// File systems are slower at times than they have been so far.
constexpr double kSlowerSave = 1.5;

}  // namespace

JobEnd::~JobEnd() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void JobEnd::watch() {
  thread_ = deaf_thread([this] {
    std::unique_lock lock(mutex_);
    while (!over_) {
      lock.unlock();
      const bool done = poll();
      lock.lock();
      if (done) return;
      changed_.wait_for(lock, kBetweenPolls, [&] { return over_.load(); });
    }
  });
}

void JobEnd::keep_longest(std::atomic<double>& longest, double seconds) {
  double before = longest.load();
  while (seconds > before && !longest.compare_exchange_weak(before, seconds)) {
  }
}

double JobEnd::needed_s() const {
  const double save_s = longest_save_s_;
  // Before the first save nothing says how long one takes; the recipe does.
  const double measured_s =
      save_s > 0 ? longest_step_s_ + kSlowerSave * save_s + kLeavingS : longest_step_s_ + kLeavingS;
  return std::max(parts_.before_end_s, measured_s);
}

bool JobEnd::poll() {
  if (stopped_ || decide()) return true;
  if (next_question_ && parts_.now() < *next_question_) return false;
  ask();
  return decide();
}

void JobEnd::ask() {
  try {
    const bool is_first = !next_question_ || has_failed_;
    const auto end = parts_.ask([this] { return over_.load(); });
    if (end && (is_first || end != end_)) {
      log_debug("the job ends in {:.0f} s; the run stops {:.0f} s before that",
                std::chrono::duration<double>(*end - parts_.now()).count(), needed_s());
    }
    end_ = end;
    has_failed_ = false;
  } catch (const std::exception& error) {
    if (!has_failed_ && !over_) {
      log_warn(
          "when the job ends is not known ({}). {}Let Slurm send a signal in time (#SBATCH "
          "--signal=USR2@300), or set train.stop_before_end_s = 0.",
          error.what(),
          end_ ? "What it last said counts. " : "The run does not stop by itself before that. ");
    }
    has_failed_ = true;
  }
  next_question_ = parts_.now() + kBetweenQuestions;
}

bool JobEnd::decide() {
  if (!end_) return false;
  const double left_s = std::chrono::duration<double>(*end_ - parts_.now()).count();
  const double needed = needed_s();
  if (left_s > needed) return false;
  if (needed > parts_.before_end_s) {
    log_info(
        "the job ends in {:.0f} s, and the run stops now (a step took up to {:.0f} s and a save "
        "{:.0f} s so far, which is more than train.stop_before_end_s = {})",
        left_s, longest_step_s_.load(), longest_save_s_.load(), parts_.before_end_s);
  } else {
    log_info("the job ends in {:.0f} s, and the run stops now (train.stop_before_end_s = {})",
             left_s, parts_.before_end_s);
  }
  stopped_ = true;
  parts_.stop();
  return true;
}

}  // namespace trestle::trainers
