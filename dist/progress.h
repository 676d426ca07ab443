// The thread that makes progress: others hand it operations and sleep until they are done.
//
//   auto operation = std::make_shared<Exchange>(...);   // an Operation: what happens, step by step
//   progress.submit(operation);
//   ...
//   operation->wait();                                  // sleeps; throws what went wrong
//
// Over MPI there is one such thread in a process and it alone calls the library: nobody else waits
// there, where waiting means spinning on a core that should compute. It never blocks inside MPI
// either. Each simulated rank has a thread of its own. Free of MPI and torch.
//
// LOCAL. THREADS: any thread may submit, wait and test. The progress thread hears no signals.
#pragma once
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace trestle::dist {

class Progress;

/// Something that goes on step by step on the progress thread. One that its issuer drops goes on:
/// it has to keep alive whatever it reads and writes.
class Operation {
 public:
  enum class Step { waiting, moved, finished };

  Operation() = default;
  virtual ~Operation() = default;
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  /// For the issuer. Both throw what went wrong.
  void wait();  ///< sleeps until it is finished
  bool test();  ///< whether it is; never blocks

  /// For whoever makes progress. A failure ends the operation and reaches wait() and test().
  Step step();
  void fail(const std::exception_ptr& why);
  /// Nobody waits long for one that is not urgent (a receive that stands for the whole run).
  virtual bool is_urgent() const { return true; }

 protected:
  /// Goes on as far as it can without waiting.
  virtual Step advance() = 0;
  /// It has failed: nothing may touch its buffers from now on.
  virtual void withdraw() noexcept {}

 private:
  friend class Progress;
  void end(const std::exception_ptr& failure);
  bool ended_after_hurrying();

  std::mutex mutex_;
  std::condition_variable ended_;
  bool is_done_ = false;
  std::exception_ptr failure_;
  Progress* held_by_ = nullptr;  // set before another thread can see the operation
};

class Progress {
 public:
  enum class Rest {
    polls,  ///< looks again and again while anything is under way (MPI calls nobody back)
    sleeps  ///< until wake()
  };
  enum class Start {
    at_once,
    late  ///< when a thread of this rank next waits or tests: finds those who read too early
  };

  explicit Progress(Rest rest, Start start = Start::at_once);
  ~Progress();  ///< stop()
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void submit(std::shared_ptr<Operation> operation);
  /// Something may have arrived.
  void wake();
  /// Ends the thread. Operations that are not finished, and later ones, fail.
  void stop();

 private:
  friend class Operation;
  using Operations = std::vector<std::shared_ptr<Operation>>;
  using Clock = std::chrono::steady_clock;

  void work();
  void rest(std::unique_lock<std::mutex>& lock, const Operations& running, bool moved,
            Clock::time_point last_move);
  void start_held();

  const Rest rest_;
  const Start start_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Operations held_, queued_;
  bool is_woken_ = false;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace trestle::dist
