#include "launch/signals.h"

#include "base/deaf_thread.h"
#include "base/error.h"
#include "base/log.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace trestle::launch {
namespace {

using Clock = std::chrono::steady_clock;

StopSource source;
/// By number: whether the signal asks to stop.
std::array<std::atomic<bool>, NSIG> stops{};
std::atomic<bool> continued{false};
std::atomic<bool> flight_requested{false};

void on_signal(int signal) {
  if (stops[static_cast<std::size_t>(signal)].load(std::memory_order_relaxed))
    source.request(signal);
  else if (signal == SIGUSR1)
    flight_requested.store(true, std::memory_order_relaxed);
}

void on_continue(int) { continued.store(true, std::memory_order_relaxed); }

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
      source.request(SIGCONT);
    }
    previous_gap = gap;
  }
}

int number_of(const std::string& name) {
  for (int signal = 1; signal < NSIG; ++signal) {
    const char* abbreviation = ::sigabbrev_np(signal);
    if (abbreviation && name == abbreviation) return signal;
  }
  fail(ExitCode::usage, "there is no signal \"{}\" (train.stop_signals)", name);
}

void set_stops(int signal, bool whether) {
  stops[static_cast<std::size_t>(signal)].store(whether, std::memory_order_relaxed);
}

}  // namespace

bool under_mpirun() { return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr; }

bool take_flight_request() { return flight_requested.exchange(false); }

StopSource& stop_source() { return source; }

void stop_on(const std::vector<std::string>& names) {
  std::array<bool, NSIG> wanted{};
  for (const auto& name : names) wanted[static_cast<std::size_t>(number_of(name))] = true;
  wanted[SIGINT] = true;
  std::string listed;
  for (int signal = 1; signal < NSIG; ++signal) {
    const bool stop = wanted[static_cast<std::size_t>(signal)];
    set_stops(signal, stop);
    if (!stop) continue;
    handle(signal, on_signal);
    listed += (listed.empty() ? "" : ", ") + signal_name(signal);
  }
  log_debug("signals that end this run, saved: {}", listed);
}

StopSource& watch_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR2}) {
    set_stops(signal, true);
    handle(signal, on_signal);
  }
  handle(SIGUSR1, on_signal);
  if (under_mpirun()) {
    deaf_thread(judge_continues).detach();
    handle(SIGCONT, on_continue);
  }
  return source;
}

}  // namespace trestle::launch
