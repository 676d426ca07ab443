// A request to stop early: a signal handler makes it, every loop that may take long polls it.
//
//   StopSource source;                        // the program has one; tests make their own
//   StopToken stop = source.token();          // a value; copies watch the same source
//   while (...) { stop.check(); work(); }     // leaves by Error(preempted)
//
// A request is never taken back, and a second one changes nothing: the first signal is the reason.
// LOCAL: one rank's request; the step's reduction makes it everybody's. THREADS: any. request() may
// be called from a signal handler. A token must not outlive its source.
#pragma once
#include "base/error.h"

#include <atomic>
#include <string>

namespace trestle {

/// What asks to stop besides signals: the job's time is nearly over. It takes the place of a
/// signal's number, of which there are fewer.
constexpr int kTimeLimit = 1 << 16;

/// "SIGTERM"; "signal 77" where it has no name; "the job's time limit".
std::string signal_name(int signal);

class StopToken {
 public:
  /// One that never asks to stop.
  StopToken() = default;

  bool requested() const { return signal() != 0; }
  /// The signal that asked, or kTimeLimit; 0 if none did.
  int signal() const { return signal_ ? signal_->load(std::memory_order_relaxed) : 0; }
  /// Throws Error(ExitCode::preempted), which names the signal, once a stop is requested.
  void check() const;

 private:
  friend class StopSource;
  explicit StopToken(const std::atomic<int>* signal) : signal_(signal) {}
  const std::atomic<int>* signal_ = nullptr;
};

class StopSource {
 public:
  StopToken token() const { return StopToken(&signal_); }
  void request(int signal) {
    int none = 0;
    signal_.compare_exchange_strong(none, signal, std::memory_order_relaxed);
  }

 private:
  static_assert(std::atomic<int>::is_always_lock_free);
  std::atomic<int> signal_{0};
};

}  // namespace trestle
