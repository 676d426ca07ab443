// A thread that no signal reaches: signals are for the main thread, whose handlers set flags.
//   std::thread reader = deaf_thread([this] { work(); });
// LOCAL. THREADS: any may start one.
#pragma once
#include <csignal>
#include <thread>
#include <utility>

namespace trestle {

template <class F>
std::thread deaf_thread(F&& body) {
  // A thread inherits the mask that holds while it starts.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::forward<F>(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace trestle
