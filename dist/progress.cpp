#include "dist/progress.h"

#include "base/deaf_thread.h"
#include "base/error.h"
#include "dist/wait_time.h"

#include <algorithm>
#include <iterator>

namespace trestle::dist {
namespace {

using namespace std::chrono_literals;

// While messages fly the thread looks, gives the core away, and looks again. A rank that waits long
// (for another's file or picture) leaves the core to those who work: its pauses grow with the
// silence, so that they add a thousandth to any wait.
constexpr auto kEagerPolling = 100ms;
constexpr auto kLongestPause = 1ms;
constexpr auto kPauseWithoutUrgency = 10ms;

std::exception_ptr run_has_ended() {
  return std::make_exception_ptr(
      Error(ExitCode::peer,
            "an operation was under way when this rank's communication ended (it was "
            "never waited for, or an error ended the run). Look for the first error."));
}

}  // namespace

Operation::Step Operation::step() {
  try {
    const Step step = advance();
    if (step == Step::finished) end({});
    return step;
  } catch (...) {
    fail(std::current_exception());
    return Step::finished;
  }
}

void Operation::fail(const std::exception_ptr& why) {
  withdraw();
  end(why);
}

void Operation::end(const std::exception_ptr& failure) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = failure;
    is_done_ = true;
  }
  ended_.notify_all();
}

bool Operation::ended_after_hurrying() {
  {
    const std::lock_guard lock(mutex_);
    if (is_done_) return true;
  }
  if (held_by_) held_by_->start_held();
  return false;
}

void Operation::wait() {
  const WaitTimer timer;
  ended_after_hurrying();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return is_done_; });
  if (failure_) std::rethrow_exception(failure_);
}

bool Operation::test() {
  if (!ended_after_hurrying()) return false;
  if (failure_) std::rethrow_exception(failure_);
  return true;
}

Progress::Progress(Rest rest, Start start) : rest_(rest), start_(start) {
  thread_ = deaf_thread([this] { work(); });
}

Progress::~Progress() { stop(); }

void Progress::submit(std::shared_ptr<Operation> operation) {
  {
    std::unique_lock lock(mutex_);
    if (is_stopping_) {
      lock.unlock();
      return operation->fail(run_has_ended());
    }
    const bool is_held = start_ == Start::late;
    if (is_held) operation->held_by_ = this;
    (is_held ? held_ : queued_).push_back(std::move(operation));
  }
  changed_.notify_one();
}

void Progress::start_held() {
  {
    const std::lock_guard lock(mutex_);
    std::ranges::move(held_, std::back_inserter(queued_));
    held_.clear();
  }
  changed_.notify_one();
}

void Progress::wake() {
  {
    const std::lock_guard lock(mutex_);
    is_woken_ = true;
  }
  changed_.notify_one();
}

void Progress::stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Progress::rest(std::unique_lock<std::mutex>& lock, const Operations& running, bool moved,
                    Clock::time_point last_move) {
  const auto called = [&] { return is_stopping_ || !queued_.empty() || is_woken_; };
  if (moved || called()) return;
  if (running.empty() || rest_ == Rest::sleeps) return changed_.wait(lock, called);
  if (std::ranges::none_of(running, [](const auto& each) { return each->is_urgent(); })) {
    changed_.wait_for(lock, kPauseWithoutUrgency, called);
    return;
  }
  const auto silence = Clock::now() - last_move;
  if (silence < kEagerPolling) {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
  } else {
    changed_.wait_for(lock, std::min<Clock::duration>(silence / 1000, kLongestPause), called);
  }
}

void Progress::work() {
  Operations running;
  bool moved = false;
  auto last_move = Clock::now();
  std::unique_lock lock(mutex_);
  for (;;) {
    rest(lock, running, moved, last_move);
    if (is_stopping_) break;
    moved = !queued_.empty();
    std::ranges::move(queued_, std::back_inserter(running));
    queued_.clear();
    is_woken_ = false;
    lock.unlock();
    // In the order in which they were issued: channels count on that.
    std::erase_if(running, [&](const std::shared_ptr<Operation>& operation) {
      const Operation::Step step = operation->step();
      moved |= step != Operation::Step::waiting;
      return step == Operation::Step::finished;
    });
    if (moved) last_move = Clock::now();
    lock.lock();
  }
  std::ranges::move(queued_, std::back_inserter(running));
  std::ranges::move(held_, std::back_inserter(running));
  queued_.clear();
  held_.clear();
  lock.unlock();
  for (const auto& operation : running) operation->fail(run_has_ended());
}

}  // namespace trestle::dist
