#include "launch/commands/units.h"
#include "launch/doctor/judges.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace trestle::launch::doctor {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

std::string limit_text(std::int64_t bytes) {
  return bytes == kUnlimited ? "unlimited" : bytes_text(bytes);
}

bool is_below(std::int64_t limit, std::int64_t wanted) {
  return limit != kUnlimited && limit < wanted;
}

}  // namespace

Finding judge_shm(const std::vector<Facts>& ranks) {
  Finding finding{.what = "shm"};
  finding.value = by_host(ranks, [](const Facts& facts) -> std::string {
    if (facts.shm_bytes == 0) return "no /dev/shm";
    return bytes_text(facts.shm_bytes) + " in /dev/shm";
  });
  // Ranks of a host exchange through it: Open MPI about 4 MiB a pair, NCCL about 33 MiB a rank.
  constexpr std::int64_t kEach = 64 * kMiB;
  for (const auto& host : ranks_by_host(ranks)) {
    const Facts& facts = ranks[static_cast<std::size_t>(host.front())];
    const auto count = static_cast<std::int64_t>(host.size());
    if (count == 1 && facts.gpus.size() < 2) continue;
    if (facts.shm_free_bytes >= count * kEach) continue;
    finding.complain(
        facts.shm_bytes == 0 ? Health::fail : Health::warn,
        fmt::format("{} has {} free in /dev/shm for {} ranks, which exchange through it (about {} "
                    "each; with less they may fail in the middle of a run). Docker: "
                    "--shm-size=8g; otherwise mount -o remount,size=8g /dev/shm, or delete what "
                    "dead programs left there.",
                    facts.host(), bytes_text(facts.shm_free_bytes), count, bytes_text(kEach)));
  }
  return finding;
}

Finding judge_memlock(const std::vector<Facts>& ranks) {
  Finding finding{.what = "memlock"};
  finding.value = by_host(ranks, [](const Facts& facts) {
    return limit_text(facts.memlock_bytes) + (facts.has_infiniband ? ", with InfiniBand" : "");
  });
  for (const Facts& facts : ranks) {
    if (!facts.has_infiniband && facts.gpus.empty()) continue;
    if (!is_below(facts.memlock_bytes, std::int64_t{1} << 30)) continue;
    finding.complain(Health::warn,
                     fmt::format("On {} little memory may be locked (InfiniBand and pinned buffers "
                                 "need it; transfers fall back to slower ways or fail). Set "
                                 "\"* - memlock unlimited\" in /etc/security/limits.conf, and "
                                 "LimitMEMLOCK=infinity for slurmd.",
                                 facts.host()));
    break;
  }
  return finding;
}

Finding judge_stack(const std::vector<Facts>& ranks) {
  Finding finding{.what = "stack"};
  finding.value = by_host(ranks, [](const Facts& facts) { return limit_text(facts.stack_bytes); });
  for (const Facts& facts : ranks) {
    if (facts.stack_bytes == kUnlimited) {
      finding.complain(
          Health::warn,
          fmt::format("An unlimited stack (on {}) means less: the C library then gives "
                      "each thread 2 MB in place of the limit, and deep recursion in "
                      "backward may end the program. Set ulimit -s 8192.",
                      facts.host()));
      break;
    }
    if (is_below(facts.stack_bytes, 8 * kMiB)) {
      finding.complain(Health::warn,
                       fmt::format("Threads on {} get stacks of {} (deep recursion in backward may "
                                   "end the program). Set ulimit -s 8192.",
                                   facts.host(), limit_text(facts.stack_bytes)));
      break;
    }
  }
  return finding;
}

Finding judge_open_files(const std::vector<Facts>& ranks) {
  Finding finding{.what = "open_files"};
  finding.value = by_host(ranks, [](const Facts& facts) {
    return facts.open_files == kUnlimited ? "unlimited" : std::to_string(facts.open_files);
  });
  // Sockets: MPI has up to two a peer, the watchdog one; and files of data, logs and libraries.
  const std::int64_t wanted = 3 * static_cast<std::int64_t>(ranks.size()) + 512;
  for (const Facts& facts : ranks) {
    if (!is_below(facts.open_files, wanted)) continue;
    const bool cannot = is_below(facts.open_files, 3 * std::ssize(ranks) + 64);
    finding.complain(cannot ? Health::fail : Health::warn,
                     fmt::format("A rank on {} may open {} files, and {} ranks want about {} "
                                 "(sockets count). Set ulimit -n {}.",
                                 facts.host(), facts.open_files, ranks.size(), wanted,
                                 std::max<std::int64_t>(wanted, 4096)));
    break;
  }
  return finding;
}

Finding judge_core_files(const std::vector<Facts>& ranks) {
  Finding finding{.what = "core_files"};
  finding.value = by_host(ranks, [](const Facts& facts) {
    if (facts.core_bytes == 0) return std::string("none");
    return fmt::format("{}, as \"{}\"", limit_text(facts.core_bytes), facts.core_pattern);
  });
  for (const Facts& facts : ranks) {
    const bool goes_to_a_program = facts.core_pattern.starts_with('|');
    if (facts.core_bytes == 0 || goes_to_a_program) continue;
    finding.complain(
        Health::warn,
        fmt::format(
            "A crash on {} writes a rank's whole memory to a file (many GB at once when all "
            "ranks crash, which may fill the disk that checkpoints need). Set ulimit -c 0 "
            "unless you want them.",
            facts.host()));
    break;
  }
  return finding;
}

}  // namespace trestle::launch::doctor
