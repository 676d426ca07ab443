#include "base/stop.h"

#include <csignal>
#include <cstring>

namespace trestle {

std::string signal_name(int signal) {
  if (signal == kTimeLimit) return "the job's time limit";
  const char* name = ::sigabbrev_np(signal);
  return name ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

void StopToken::check() const {
  if (const int received = signal()) {
    fail(ExitCode::preempted, "stopped by {}", signal_name(received));
  }
}

}  // namespace trestle
