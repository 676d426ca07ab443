#include "dist/gpu_assignment.h"
#include "launch/commands/units.h"
#include "launch/doctor/judges.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace trestle::launch::doctor {
namespace {

std::vector<dist::Binding> bindings_of(const std::vector<Facts>& ranks,
                                       const std::optional<Needs>& needs) {
  std::vector<dist::Binding> bindings;
  for (const Facts& facts : ranks) {
    bindings.push_back(facts.binding);
    if (needs && needs->threads > 0) bindings.back().threads = static_cast<int>(needs->threads);
  }
  dist::choose_threads(bindings);
  return bindings;
}

std::string nccl_text(int version) {
  // Up to 2.8 a version was 1000 x major + 100 x minor + patch.
  const int unit = version < 10000 ? 1000 : 10000;
  return fmt::format("{}.{}.{}", version / unit, version % unit / 100, version % 100);
}

bool is_virtual(const std::string& interface) {
  constexpr const char* kPrefixes[] = {"docker", "virbr", "br-", "cni", "flannel", "podman"};
  return std::ranges::any_of(kPrefixes,
                             [&](const char* prefix) { return interface.starts_with(prefix); });
}

}  // namespace

Finding judge_cores(const std::vector<Facts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "cores"};
  const dist::BindingReport report = dist::judge(bindings_of(ranks, needs));
  finding.value = fmt::format("{}", fmt::join(report.lines, "; "));
  for (const std::string& warning : report.warnings) finding.complain(Health::warn, warning);
  return finding;
}

Finding judge_threads(const std::vector<Facts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "threads"};
  const auto bindings = bindings_of(ranks, needs);
  const auto omp = [](const Facts& facts) { return facts.variable("OMP_NUM_THREADS"); };
  const auto [fewest, most] = std::ranges::minmax_element(bindings, {}, &dist::Binding::threads);
  finding.value = fewest->threads == most->threads
                      ? fmt::format("{} a rank", most->threads)
                      : fmt::format("{} to {} a rank", fewest->threads, most->threads);
  const std::string set = omp(ranks.front());
  if (needs && needs->threads > 0)
    finding.value += fmt::format(" (dist.threads = {})", needs->threads);
  else
    finding.value += set.empty() ? " (OMP_NUM_THREADS is not set: a share of the cores)"
                                 : fmt::format(" (OMP_NUM_THREADS={})", set);
  std::set<std::string> settings;
  for (const Facts& facts : ranks) settings.insert(omp(facts));
  if (settings.size() > 1) {
    finding.value += "; " + by_host(ranks, [&](const Facts& facts) {
                       return omp(facts).empty() ? "unset" : omp(facts);
                     });
    finding.complain(Health::warn,
                     "OMP_NUM_THREADS differs between ranks (a step lasts as long as its slowest "
                     "rank). Pass the same to all: mpirun -x OMP_NUM_THREADS=N.");
  }
  for (const auto& host : ranks_by_host(ranks)) {
    const auto& first = bindings[static_cast<std::size_t>(host.front())];
    const auto threads = static_cast<std::size_t>(first.threads) * host.size();
    const auto cpus = static_cast<std::size_t>(first.host_cpus);
    if (4 * threads > cpus || (set.empty() && !(needs && needs->threads > 0))) continue;
    finding.complain(Health::warn,
                     fmt::format("{} computes with {} threads on {} CPUs, so most are idle. Raise "
                                 "OMP_NUM_THREADS or dist.threads, or leave both unset.",
                                 first.host, threads, cpus));
    break;
  }
  return finding;
}

Finding judge_memory(const std::vector<Facts>& ranks, const std::optional<Needs>& needs) {
  Finding finding{.what = "memory"};
  finding.value = by_host(
      ranks, [](const Facts& facts) { return bytes_text(facts.memory_bytes) + " can be had"; });
  if (!needs) return finding;
  finding.value += fmt::format("; a rank's tensors take {}", bytes_text(needs->rank_memory_bytes));
  for (const auto& host : ranks_by_host(ranks)) {
    const Facts& facts = ranks[static_cast<std::size_t>(host.front())];
    const auto wanted = needs->rank_memory_bytes * static_cast<std::int64_t>(host.size());
    if (wanted * 10 <= facts.memory_bytes * 8) continue;
    finding.complain(
        wanted > facts.memory_bytes ? Health::fail : Health::warn,
        fmt::format(
            "The {} rank{} on {} will take {} of {} (the program itself comes on top; trestle "
            "plan tells what takes how much). Use more hosts, a smaller "
            "train.micro_batch, train.checkpoint_every or dist.shard = \"gradients\".",
            host.size(), host.size() == 1 ? "" : "s", facts.host(), bytes_text(wanted),
            bytes_text(facts.memory_bytes)));
  }
  return finding;
}

Finding judge_gpus(const std::vector<Facts>& ranks) {
  Finding finding{.what = "gpus"};
  finding.value = by_host(ranks, [](const Facts& facts) -> std::string {
    const std::string driver = facts.gpu_driver.empty() ? "" : ", driver " + facts.gpu_driver;
    if (facts.gpus.empty()) return "none" + driver;
    return fmt::format("{} seen by a rank{}", facts.gpus.size(), driver);
  });
  std::vector<dist::VisibleGpus> visible;
  bool any = false;
  for (const Facts& facts : ranks) {
    any = any || !facts.gpus.empty();
    visible.push_back({.host = facts.host(), .uuids = facts.gpus});
    if (facts.gpus.empty() && !facts.gpu_driver.empty() && finding.advice.empty()) {
      finding.complain(
          Health::warn,
          fmt::format("{} has NVIDIA's driver, and CUDA shows no GPU (the driver may be "
                      "older than this CUDA, or CUDA_VISIBLE_DEVICES or the job hides "
                      "them). Compare nvidia-smi, and ask Slurm with --gpus.",
                      facts.host()));
    }
  }
  if (!any) return finding;
  try {
    dist::assign_gpus(visible, dist::gpu_sharing());
  } catch (const Error& error) {
    finding.complain(Health::fail, error.what());
  }
  return finding;
}

Finding judge_nccl(const NcclVersions& versions) {
  Finding finding{.what = "nccl"};
  if (versions.compiled == 0) {
    finding.value = "none: this program was built without CUDA";
    return finding;
  }
  finding.value = fmt::format("compiled with {}, loaded {}", nccl_text(versions.compiled),
                              versions.loaded == 0 ? "none" : nccl_text(versions.loaded));
  if (versions.compiled != versions.loaded) {
    finding.complain(versions.compiled / 100 == versions.loaded / 100 ? Health::warn : Health::fail,
                     "Another NCCL is loaded than this program was compiled with (LD_LIBRARY_PATH "
                     "or LD_PRELOAD brings one). Unset them, or build again with that one.");
  }
  return finding;
}

Finding judge_network(const std::vector<Facts>& ranks) {
  Finding finding{.what = "network"};
  const auto list = [](const Facts& facts) {
    std::string text;
    for (const Interface& interface : facts.interfaces) {
      if (interface.is_loopback) continue;
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", interface.name, interface.address);
      if (interface.megabits > 0) text += fmt::format(" ({:g} Gbit/s)", interface.megabits / 1e3);
    }
    return text.empty() ? "loopback only" : text;
  };
  finding.value = by_host(ranks, list);
  if (hosts_of(ranks).size() == 1) return finding;

  std::set<std::string> taken, unreachable, by_virtual;
  std::map<std::string, std::set<std::string>> hosts_of_address;
  for (const Facts& facts : ranks) {
    for (const auto& [host, interface] : facts.to) {
      if (interface.empty())
        unreachable.insert(fmt::format("{} from {}", host, facts.host()));
      else
        taken.insert(interface);
      if (is_virtual(interface)) by_virtual.insert(facts.host() + ": " + interface);
    }
    for (const Interface& interface : facts.interfaces)
      if (!interface.is_loopback)
        hosts_of_address[interface.name + " " + interface.address].insert(facts.host());
  }
  finding.value += fmt::format("; between hosts: {}", fmt::join(taken, ", "));
  if (!unreachable.empty()) {
    finding.complain(
        Health::fail,
        fmt::format("There is no way to {} by any address. Check routes and firewalls.",
                    fmt::join(unreachable, ", ")));
  }
  if (!by_virtual.empty()) {
    finding.complain(Health::warn,
                     fmt::format("A bridge of containers or virtual machines carries the traffic "
                                 "({}). Name the right interface: mpirun --mca btl_tcp_if_include "
                                 "IF, NCCL_SOCKET_IFNAME=IF.",
                                 fmt::join(by_virtual, ", ")));
  }
  const bool is_chosen = !ranks.front().variable("OMPI_MCA_btl_tcp_if_include").empty() ||
                         !ranks.front().variable("OMPI_MCA_btl_tcp_if_exclude").empty();
  for (const auto& [address, hosts] : hosts_of_address) {
    if (hosts.size() < 2 || is_chosen) continue;
    finding.complain(
        Health::warn,
        fmt::format("{} is the address of {} at once (Open MPI may try to reach one "
                    "host there and hang). Exclude it: mpirun --mca "
                    "btl_tcp_if_exclude lo,{}.",
                    address, fmt::join(hosts, " and "), address.substr(0, address.find(' '))));
  }
  return finding;
}

}  // namespace trestle::launch::doctor
