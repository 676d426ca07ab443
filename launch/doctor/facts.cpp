#include "launch/doctor/facts.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "dist/gpu_assignment.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sstream>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char** environ;

namespace trestle::dist {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Binding, host, cpus, threads, host_cpus, pinned_by_mpirun)

}  // namespace trestle::dist

namespace trestle::launch::doctor {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Interface, name, address, is_loopback, megabits)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Facts, binding, kernel, program, environment, gpus, gpu_driver,
                                   has_infiniband, interfaces, to, memory_bytes, shm_bytes,
                                   shm_free_bytes, memlock_bytes, stack_bytes, core_bytes,
                                   open_files, core_pattern, clock_s)

namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

/// Only what a judge reads: an environment may hold secrets.
std::map<std::string, std::string> telling_environment() {
  constexpr std::array kPrefixes = {"OMPI_COMM_WORLD_", "OMPI_MCA_btl", "SLURM_", "PMIX_VERSION",
                                    "PMIX_RANK",        "OMP_NUM_",     "NCCL_",  "CUDA_VISIBLE",
                                    "TRESTLE_"};
  std::map<std::string, std::string> found;
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text = *entry;
    const auto equals = text.find('=');
    if (equals == text.npos) continue;
    if (std::ranges::any_of(kPrefixes, [&](const char* p) { return text.starts_with(p); }))
      found.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return found;
}

/// The version in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...".
std::string gpu_driver() {
  std::istringstream words(first_line("/proc/driver/nvidia/version"));
  for (std::string word; words >> word;) {
    const bool is_number = std::ranges::all_of(word, [](char c) { return c == '.' || isdigit(c); });
    if (is_number && word.find('.') != word.npos) return word;
  }
  return fs::exists("/dev/nvidiactl") ? "of unknown version" : "";
}

std::vector<Interface> interfaces_up() {
  std::vector<Interface> found;
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return found;
  for (const ifaddrs* i = first; i; i = i->ifa_next) {
    if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP)) continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    const auto* address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
    ::inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size());
    std::int64_t megabits = 0;
    std::istringstream(first_line(fs::path("/sys/class/net") / i->ifa_name / "speed")) >> megabits;
    found.push_back({.name = i->ifa_name,
                     .address = text.data(),
                     .is_loopback = (i->ifa_flags & IFF_LOOPBACK) != 0,
                     .megabits = std::max<std::int64_t>(megabits, 0)});
  }
  ::freeifaddrs(first);
  return found;
}

/// The interface whose address the kernel would speak from to reach this one; nothing is sent.
std::string interface_towards(const std::string& address, const std::vector<Interface>& mine) {
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(9);
  if (::inet_pton(AF_INET, address.c_str(), &target.sin_addr) != 1) return "";
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return "";
  sockaddr_in own{};
  socklen_t size = sizeof own;
  const bool known =
      ::connect(socket, reinterpret_cast<const sockaddr*>(&target), sizeof target) == 0 &&
      ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) == 0;
  ::close(socket);
  std::array<char, INET_ADDRSTRLEN> text{};
  if (!known || !::inet_ntop(AF_INET, &own.sin_addr, text.data(), text.size())) return "";
  const auto found = std::ranges::find(mine, std::string(text.data()), &Interface::address);
  return found == mine.end() ? "" : found->name;
}

/// The container's limit, in cgroups of version 2 and 1; nothing where there is none.
std::int64_t memory_limit(std::int64_t otherwise) {
  for (const char* file :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::int64_t limit = 0;
    if (std::istringstream(first_line(file)) >> limit) return std::min(limit, otherwise);
  }
  return otherwise;
}

std::int64_t memory_now() {
  std::ifstream in("/proc/meminfo");
  std::string name, unit;
  for (std::int64_t kilobytes = 0; in >> name >> kilobytes; std::getline(in, unit))
    if (name == "MemAvailable:") return memory_limit(kilobytes * 1024);
  return 0;
}

std::int64_t limit_of(__rlimit_resource resource) {
  rlimit limit{};
  ::getrlimit(resource, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return static_cast<std::int64_t>(
      std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<std::int64_t>::max()));
}

std::string digest_of_program() {
  try {
    constexpr std::uint64_t kLimitBytes = std::uint64_t{4} << 30;
    return digest_128(read_text_file("/proc/self/exe", kLimitBytes, ExitCode::environment));
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

std::string Facts::variable(const std::string& name) const {
  const auto found = environment.find(name);
  return found == environment.end() ? "" : found->second;
}

Facts facts_of_this_rank() {
  Facts facts;
  facts.binding = dist::this_process();
  utsname system{};
  ::uname(&system);
  facts.kernel = system.release;
  facts.program = digest_of_program();
  facts.environment = telling_environment();
  facts.gpus = dist::visible_gpus().uuids;
  facts.gpu_driver = gpu_driver();
  std::error_code none;
  facts.has_infiniband =
      fs::directory_iterator("/sys/class/infiniband", none) != fs::directory_iterator();
  facts.interfaces = interfaces_up();
  facts.memory_bytes = memory_now();
  struct statvfs shm {};
  if (::statvfs("/dev/shm", &shm) == 0) {
    facts.shm_bytes = static_cast<std::int64_t>(shm.f_blocks * shm.f_frsize);
    facts.shm_free_bytes = static_cast<std::int64_t>(shm.f_bavail * shm.f_frsize);
  }
  facts.memlock_bytes = limit_of(RLIMIT_MEMLOCK);
  facts.stack_bytes = limit_of(RLIMIT_STACK);
  facts.core_bytes = limit_of(RLIMIT_CORE);
  facts.open_files = limit_of(RLIMIT_NOFILE);
  facts.core_pattern = first_line("/proc/sys/kernel/core_pattern");
  return facts;
}

std::vector<Facts> gather(const dist::Communicator& world, Facts mine) {
  std::vector<Facts> others;
  for (const std::string& text : world.all_gather_bytes(encode(mine)))
    others.push_back(decode_facts(text));
  for (const auto& host : ranks_by_host(others)) {
    const Facts& other = others[static_cast<std::size_t>(host.front())];
    if (other.host() == mine.host()) continue;
    for (const Interface& interface : other.interfaces) {
      if (interface.is_loopback || !mine.to[other.host()].empty()) continue;
      // An address that this host has as well leads nowhere.
      const auto same = std::ranges::find(mine.interfaces, interface.address, &Interface::address);
      if (same == mine.interfaces.end())
        mine.to[other.host()] = interface_towards(interface.address, mine.interfaces);
    }
  }
  world.barrier();
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  mine.clock_s = double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
  std::vector<Facts> ranks;
  for (const std::string& text : world.all_gather_bytes(encode(mine)))
    ranks.push_back(decode_facts(text));
  return ranks;
}

std::string encode(const Facts& facts) {
  return nlohmann::json(facts).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Facts decode_facts(const std::string& text) { return nlohmann::json::parse(text).get<Facts>(); }

std::vector<std::vector<int>> ranks_by_host(const std::vector<Facts>& ranks) {
  std::vector<std::vector<int>> hosts;
  std::map<std::string, std::size_t> index;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const auto [place, is_new] = index.try_emplace(ranks[rank].host(), hosts.size());
    if (is_new) hosts.emplace_back();
    hosts[place->second].push_back(static_cast<int>(rank));
  }
  return hosts;
}

std::vector<std::string> hosts_of(const std::vector<Facts>& ranks) {
  std::vector<std::string> names;
  for (const auto& host : ranks_by_host(ranks))
    names.push_back(ranks[static_cast<std::size_t>(host.front())].host());
  return names;
}

std::string by_host(const std::vector<Facts>& ranks,
                    const std::function<std::string(const Facts&)>& text) {
  std::vector<std::pair<std::string, std::string>> groups;  // text, hosts
  for (const auto& host : ranks_by_host(ranks)) {
    const Facts& facts = ranks[static_cast<std::size_t>(host.front())];
    const std::string said = text(facts);
    const auto found = std::ranges::find(groups, said, &std::pair<std::string, std::string>::first);
    if (found == groups.end())
      groups.emplace_back(said, facts.host());
    else
      found->second += ", " + facts.host();
  }
  if (groups.size() == 1) return groups.front().first;
  std::string all;
  for (const auto& [said, hosts] : groups)
    all += fmt::format("{}{}: {}", all.empty() ? "" : "; ", hosts, said);
  return all;
}

}  // namespace trestle::launch::doctor
