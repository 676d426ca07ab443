#include "launch/signals.h"

#include "base/deaf_thread.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace trestle::launch {
namespace {

using Clock = std::chrono::steady_clock;

StopSource stop_source;
std::atomic<bool> continued{false};
std::atomic<bool> flight_requested{false};

void on_stop(int signal) { stop_source.request(signal); }

void on_continue(int) { continued.store(true, std::memory_order_relaxed); }

void on_flight_request(int) { flight_requested.store(true, std::memory_order_relaxed); }

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // no system call of a library has to expect EINTR
  sigfillset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

/// A stopped process misses its beats; that is the only trace that SIGSTOP leaves in it.
[[noreturn]] void judge_continues() {
  constexpr auto kBeat = std::chrono::milliseconds(20);
  constexpr auto kMissed = std::chrono::milliseconds(400);
  auto last = Clock::now();
  Clock::duration previous_gap{};
  for (;;) {
    std::this_thread::sleep_for(kBeat);
    const auto now = Clock::now();
    const auto gap = now - last;
    last = now;
    // The handler may run before or after this thread wakes, so two gaps decide.
    if (continued.exchange(false) && std::max(gap, previous_gap) < kMissed) {
      stop_source.request(SIGCONT);
    }
    previous_gap = gap;
  }
}

}  // namespace

bool under_mpirun() { return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr; }

bool take_flight_request() { return flight_requested.exchange(false); }

StopSource& watch_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) handle(signal, on_stop);
  handle(SIGUSR1, on_flight_request);
  if (under_mpirun()) {
    deaf_thread(judge_continues).detach();
    handle(SIGCONT, on_continue);
  }
  return stop_source;
}

}  // namespace trestle::launch
