// How long this thread has waited for other ranks, in all: a step's own time is its time less this.
//
//   { dist::WaitTimer timer; operation->wait(); }      // where a thread waits
//   const double before = dist::waited_s(); step(); const double waited = dist::waited_s() -
//   before;
//
// LOCAL. THREADS: any; each has its own sum. Timers may nest: only the outer one counts.
#pragma once
#include <chrono>

namespace trestle::dist {

namespace detail {
inline thread_local double waited_s = 0;
inline thread_local int timers = 0;
}  // namespace detail

inline double waited_s() { return detail::waited_s; }

class WaitTimer {
 public:
  WaitTimer() { ++detail::timers; }
  ~WaitTimer() {
    if (--detail::timers == 0)
      detail::waited_s += std::chrono::duration<double>(Clock::now() - start_).count();
  }
  WaitTimer(const WaitTimer&) = delete;
  WaitTimer& operator=(const WaitTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace trestle::dist
