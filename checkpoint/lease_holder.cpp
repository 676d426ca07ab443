// This process as the holder of a lease, and what can be seen of another one.
#include "base/error.h"
#include "checkpoint/lease_record.h"
#include "dist/binding.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <ctime>
#include <fstream>
#include <limits>
#include <sstream>
#include <unistd.h>

namespace trestle::checkpoint {
namespace {

/// A name of this machine or of Slurm as the file holds it.
std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](char c) { return c < ' ' || c > '~'; }, '?');
  if (text.size() > kLeaseTextLimit) text.resize(kLeaseTextLimit);
  return text;
}

std::string first_line(const char* file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string link_target(const char* link) {
  char target[256] = "";
  const ssize_t length = ::readlink(link, target, sizeof target - 1);
  return length > 0 ? std::string(target, static_cast<std::size_t>(length)) : "";
}

std::int64_t count_in(const dist::Environment& environment, const char* name) {
  const std::string text = environment(name).value_or("");
  std::int64_t count = 0;
  std::from_chars(text.data(), text.data() + text.size(), count);
  return std::max<std::int64_t>(count, 0);
}

}  // namespace

std::string time_text_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[64];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text;
}

LeaseHolder this_process(int world, const dist::Environment& environment) {
  LeaseHolder holder;
  holder.host = printable(dist::host_name());
  holder.boot_id = printable(first_line("/proc/sys/kernel/random/boot_id"));
  holder.pid_space = printable(link_target("/proc/self/ns/pid"));
  holder.pid = ::getpid();
  holder.started_ticks = std::max<std::int64_t>(start_of_process(holder.pid).value_or(0), 0);
  holder.cluster = printable(environment("SLURM_CLUSTER_NAME").value_or(""));
  holder.job = printable(environment("SLURM_JOB_ID").value_or(""));
  holder.restart = count_in(environment, "SLURM_RESTART_COUNT");
  holder.world = world;
  return holder;
}

std::optional<std::int64_t> start_of_process(std::int64_t pid) {
  if (pid <= 0 || pid > std::numeric_limits<pid_t>::max()) return std::nullopt;
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (std::getline(in, line)) {
    // pid (name) state ...: the name may hold anything, so count from its last bracket.
    std::istringstream fields(line.substr(std::min(line.rfind(')') + 1, line.size())));
    std::string state, skipped;
    fields >> state;
    if (state == "Z" || state == "X") return std::nullopt;  // dead, not yet buried
    for (int field = 4; field < 22; ++field) fields >> skipped;
    if (std::int64_t ticks = 0; fields >> ticks) return ticks;
  }
  // Systems may hide the processes of other users.
  const bool there = ::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM;
  return there ? std::optional<std::int64_t>(-1) : std::nullopt;
}

}  // namespace trestle::checkpoint
