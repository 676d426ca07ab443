// The background thread of a rank that saves: it does one piece of work after the other.
//
//   SaveThread thread;
//   thread.add([shard] { shard->run(); });         // returns at once
//   thread.wait_until_idle(deadline);
//
// Work owns what it touches (shared pointers), since a thread that is stuck in a file system is
// left behind when the run ends. LOCAL. THREADS: one for calls; no signal reaches the thread.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

namespace trestle::checkpoint {

class SaveThread {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kPatience{10};

  SaveThread();
  /// Ends after the work that was added, and does not wait longer than kPatience for it.
  ~SaveThread();
  SaveThread(const SaveThread&) = delete;
  SaveThread& operator=(const SaveThread&) = delete;

  /// `work` throws nothing.
  void add(std::function<void()> work);
  /// False where it is not idle when the time has come.
  bool wait_until_idle(Clock::time_point deadline) const;

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace trestle::checkpoint
