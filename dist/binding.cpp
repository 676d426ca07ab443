#include "dist/binding.h"

#include "dist/launch_check.h"

#include <algorithm>
#include <map>
#include <sched.h>
#include <set>
#include <sstream>
#include <unistd.h>

namespace trestle::dist {
namespace {

std::vector<int> allowed_cpus() {
  // The kernel refuses a mask that is shorter than its own; machines beyond 1024 cpus exist.
  for (int count = 1024; count <= 1 << 20; count *= 2) {
    const size_t bytes = CPU_ALLOC_SIZE(count);
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(
        CPU_ALLOC(count), [](cpu_set_t* set) { CPU_FREE(set); });
    if (sched_getaffinity(0, bytes, mask.get()) != 0) continue;
    std::vector<int> cpus;
    for (int cpu = 0; cpu < count; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, mask.get())) cpus.push_back(cpu);
    }
    return cpus;
  }
  fail(ExitCode::environment, "the system does not say which CPUs this process may use (errno {})",
       errno);
}

int positive_number(const char* variable) {
  const std::string text = process_environment(variable).value_or("");
  return std::max(0, std::atoi(text.c_str()));  // OMP_NUM_THREADS may be a list: the first counts
}

/// 0-3,8: ascending numbers as ranges.
std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[first]);
    if (last > first) text += fmt::format("-{}", numbers[last]);
    first = last + 1;
  }
  return text;
}

std::string counted(size_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string named_ranks(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", ranges(ranks));
}

std::string named_cpus(const std::vector<int>& cpus) {
  return fmt::format("CPU{} {}", cpus.size() == 1 ? "" : "s", ranges(cpus));
}

using Ranks = std::vector<int>;

/// Hosts in the order of their lowest rank.
std::vector<Ranks> ranks_by_host(const std::vector<Binding>& bindings) {
  std::map<std::string, size_t> index;
  std::vector<Ranks> hosts;
  for (size_t rank = 0; rank < bindings.size(); ++rank) {
    const auto [place, is_new] = index.try_emplace(bindings[rank].host, hosts.size());
    if (is_new) hosts.emplace_back();
    hosts[place->second].push_back(static_cast<int>(rank));
  }
  return hosts;
}

std::vector<int> union_of_cpus(const std::vector<Binding>& bindings, const Ranks& ranks) {
  std::set<int> cpus;
  for (const int rank : ranks) cpus.insert(bindings[rank].cpus.begin(), bindings[rank].cpus.end());
  return {cpus.begin(), cpus.end()};
}

/// Ranks of one host that share cpus, directly or through others.
std::vector<Ranks> sharing_groups(const std::vector<Binding>& bindings, const Ranks& host) {
  std::vector<Ranks> groups;
  for (const int rank : host) {
    Ranks merged{rank};
    const std::set<int> mine(bindings[rank].cpus.begin(), bindings[rank].cpus.end());
    std::erase_if(groups, [&](const Ranks& group) {
      const bool shares = std::ranges::any_of(union_of_cpus(bindings, group),
                                              [&](int cpu) { return mine.contains(cpu); });
      if (shares) merged.insert(merged.end(), group.begin(), group.end());
      return shares;
    });
    std::ranges::sort(merged);
    groups.push_back(merged);
  }
  return groups;
}

std::string host_line(const std::vector<Binding>& bindings, const Ranks& host) {
  std::vector<std::pair<const Binding*, Ranks>> alike;
  for (const int rank : host) {
    const auto place = std::ranges::find_if(
        alike, [&](const auto& entry) { return *entry.first == bindings[rank]; });
    if (place != alike.end()) {
      place->second.push_back(rank);
    } else {
      alike.emplace_back(&bindings[rank], Ranks{rank});
    }
  }
  std::string line = fmt::format("host {}:", bindings[host.front()].host);
  for (const auto& [binding, ranks] : alike) {
    line += fmt::format("{} {} on {} with {}{}", line.back() == ':' ? "" : ";", named_ranks(ranks),
                        named_cpus(binding->cpus), counted(binding->threads, "thread"),
                        ranks.size() > 1 ? " each" : "");
  }
  return line;
}

}  // namespace

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string node_name() { return process_environment("SLURMD_NODENAME").value_or(host_name()); }

Binding this_process() {
  Binding mine;
  mine.host = host_name();
  mine.cpus = allowed_cpus();
  mine.threads = positive_number("OMP_NUM_THREADS");
  mine.host_cpus = positive_number("SLURM_CPUS_ON_NODE");
  if (mine.host_cpus == 0) mine.host_cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  mine.pinned_by_mpirun = process_environment("OMPI_MCA_orte_bound_at_launch") == "1";
  return mine;
}

std::vector<Binding> gather_bindings(const Communicator& communicator, const Binding& mine) {
  std::ostringstream text;
  text << mine.host << ' ' << mine.threads << ' ' << mine.host_cpus << ' ' << mine.pinned_by_mpirun;
  for (const int cpu : mine.cpus) text << ' ' << cpu;

  std::vector<Binding> bindings;
  for (const std::string& line : communicator.all_gather_bytes(text.str())) {
    std::istringstream fields(line);
    Binding& binding = bindings.emplace_back();
    fields >> binding.host >> binding.threads >> binding.host_cpus >> binding.pinned_by_mpirun;
    for (int cpu = 0; fields >> cpu;) binding.cpus.push_back(cpu);
  }
  return bindings;
}

void choose_threads(std::vector<Binding>& bindings) {
  for (const Ranks& host : ranks_by_host(bindings)) {
    const size_t share = union_of_cpus(bindings, host).size() / host.size();
    for (const int rank : host) {
      Binding& binding = bindings[rank];
      if (binding.threads > 0) continue;
      binding.threads = static_cast<int>(std::max<size_t>(1, std::min(share, binding.cpus.size())));
    }
  }
}

BindingReport judge(const std::vector<Binding>& bindings) {
  BindingReport report;
  for (const Ranks& host : ranks_by_host(bindings)) {
    const Binding& first = bindings[host.front()];
    const size_t fair = std::max<size_t>(1, first.host_cpus / host.size());
    report.lines.push_back(host_line(bindings, host));

    for (const Ranks& group : sharing_groups(bindings, host)) {
      const std::vector<int> cpus = union_of_cpus(bindings, group);
      size_t threads = 0;
      for (const int rank : group) threads += bindings[rank].threads;
      if (group.size() > 1 && threads > cpus.size()) {
        report.warnings.push_back(fmt::format(
            "{} on {} share {}: {} for {} (they take turns, so a step takes about {:.1f} times as "
            "long as with a CPU for each). Launch with \"mpirun --bind-to none\" or \"--map-by "
            "slot:PE={}\", under srun with --cpus-per-task, or start fewer "
            "ranks or threads (OMP_NUM_THREADS).",
            named_ranks(group), first.host, named_cpus(cpus), counted(threads, "thread"),
            counted(cpus.size(), "CPU"), double(threads) / double(cpus.size()), fair));
        continue;
      }
      for (const int rank : group) {
        const Binding& binding = bindings[rank];
        if (binding.threads <= static_cast<int>(binding.cpus.size())) continue;
        report.warnings.push_back(fmt::format(
            "rank {} on {} has {} for {} (mpirun pins a rank with all its threads; srun gives what "
            "--cpus-per-task says). Launch with \"mpirun --bind-to none\" or \"--map-by "
            "slot:PE={}\", or set OMP_NUM_THREADS={}.",
            rank, first.host, counted(binding.threads, "thread"), named_cpus(binding.cpus),
            binding.threads, binding.cpus.size()));
      }
    }

    const size_t used = union_of_cpus(bindings, host).size();
    if (first.pinned_by_mpirun && 2 * used <= static_cast<size_t>(first.host_cpus)) {
      report.warnings.push_back(fmt::format(
          "{} use {} of the {} CPUs of {} (mpirun pins each of few ranks to one core, with all its "
          "threads). Launch with \"mpirun --bind-to none\" or \"--map-by slot:PE={}\".",
          named_ranks(host), used, first.host_cpus, first.host, fair));
    }
  }
  return report;
}

}  // namespace trestle::dist
