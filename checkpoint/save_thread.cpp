#include "checkpoint/save_thread.h"

#include "base/deaf_thread.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

namespace trestle::checkpoint {

struct SaveThread::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> work;  ///< the first is under way
  bool leaving = false, over = false;

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return leaving || !work.empty(); });
      if (work.empty()) break;
      std::function<void()> next = std::move(work.front());
      lock.unlock();
      next();
      next = nullptr;  // what it owns may be large
      lock.lock();
      work.pop_front();
      changed.notify_all();
    }
    over = true;
    changed.notify_all();
  }
};

SaveThread::SaveThread()
    : shared_(std::make_shared<Shared>()),
      thread_(deaf_thread([shared = shared_] { shared->run(); })) {}

SaveThread::~SaveThread() {
  bool over = false;
  {
    std::unique_lock lock(shared_->mutex);
    shared_->leaving = true;
    shared_->changed.notify_all();
    over = shared_->changed.wait_for(lock, kPatience, [&] { return shared_->over; });
  }
  if (over)
    thread_.join();
  else
    thread_.detach();
}

void SaveThread::add(std::function<void()> work) {
  const std::lock_guard lock(shared_->mutex);
  shared_->work.push_back(std::move(work));
  shared_->changed.notify_all();
}

bool SaveThread::wait_until_idle(Clock::time_point deadline) const {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_until(lock, deadline, [&] { return shared_->work.empty(); });
}

}  // namespace trestle::checkpoint
