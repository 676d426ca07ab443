// How a piece of work of the save thread ends, as the main thread sees it: once, done or failed,
// and whoever says so first is believed.
//
//   Ending ending;
//   save thread: ending.done();  or  ending.failed(std::current_exception());
//   main thread: ending.wait_until(deadline); if (ending.state() == Ending::State::failed) ...
//
// LOCAL. THREADS: any.
#pragma once
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

namespace trestle::checkpoint {

class Ending {
 public:
  using Clock = std::chrono::steady_clock;
  enum class State { open, done, failed };

  void done() { end(State::done, nullptr); }
  void failed(std::exception_ptr why) { end(State::failed, std::move(why)); }

  State state() const {
    const std::lock_guard lock(mutex_);
    return state_;
  }
  bool is_open() const { return state() == State::open; }
  /// Of work that failed.
  std::exception_ptr why() const {
    const std::lock_guard lock(mutex_);
    return why_;
  }

  /// Sleeps until it has ended, or `ready()` holds, or the time has come. `ready` is looked at
  /// whenever somebody calls look_again().
  template <class Ready>
  void wait_until(Clock::time_point deadline, Ready ready) const {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return state_ != State::open || ready(); });
  }
  void wait_until(Clock::time_point deadline) const {
    wait_until(deadline, [] { return false; });
  }
  void look_again() const {
    { const std::lock_guard lock(mutex_); }
    changed_.notify_all();
  }

 private:
  void end(State state, std::exception_ptr why) {
    {
      const std::lock_guard lock(mutex_);
      if (state_ != State::open) return;
      state_ = state;
      why_ = std::move(why);
    }
    changed_.notify_all();
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  State state_ = State::open;
  std::exception_ptr why_;
};

}  // namespace trestle::checkpoint
