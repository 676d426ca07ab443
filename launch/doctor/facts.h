// What a rank knows of its machine, itself and its environment, for the judges of `trestle doctor`.
//
//   const std::vector<Facts> ranks = gather(world, facts_of_this_rank());   // by rank
//
// facts_of_this_rank() is LOCAL, gather() COLLECTIVE. THREADS: one.
#pragma once
#include "dist/binding.h"
#include "dist/communicator.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace trestle::launch::doctor {

constexpr std::int64_t kUnlimited = -1;

struct Interface {
  std::string name, address;  ///< IPv4
  bool is_loopback = false;
  std::int64_t megabits = 0;  ///< per second, as the driver says; 0: it does not

  bool operator==(const Interface&) const = default;
};

struct Facts {
  dist::Binding binding;                           ///< with the host's name
  std::string kernel;                              ///< Linux release
  std::string program;                             ///< digest of the executable
  std::map<std::string, std::string> environment;  ///< of launchers, OpenMP, MPI, NCCL and CUDA

  std::vector<std::string> gpus;  ///< that CUDA shows, by their UUIDs
  std::string gpu_driver;         ///< version of the kernel's module; empty where there is none
  bool has_infiniband = false;

  std::vector<Interface> interfaces;      ///< that are up
  std::map<std::string, std::string> to;  ///< from here to another host: the interface taken

  std::int64_t memory_bytes = 0;  ///< that can be had now, within the container's limit
  std::int64_t shm_bytes = 0;     ///< size of /dev/shm; 0: there is none
  std::int64_t shm_free_bytes = 0;
  std::int64_t memlock_bytes = 0, stack_bytes = 0, core_bytes = 0;  ///< limits; kUnlimited
  std::int64_t open_files = 0;
  std::string core_pattern;
  double clock_s = 0;  ///< wall clock, right after a barrier

  const std::string& host() const { return binding.host; }
  /// Empty where the variable is not set.
  std::string variable(const std::string& name) const;
  bool operator==(const Facts&) const = default;
};

/// All but `to` and `clock_s`.
Facts facts_of_this_rank();

/// COLLECTIVE. Also finds out by which interface each host is reached, and compares the clocks.
std::vector<Facts> gather(const dist::Communicator& world, Facts mine);

std::string encode(const Facts& facts);
Facts decode_facts(const std::string& text);

/// Ranks by host; hosts in the order of their lowest rank.
std::vector<std::vector<int>> ranks_by_host(const std::vector<Facts>& ranks);
std::vector<std::string> hosts_of(const std::vector<Facts>& ranks);

/// "64 MB", or "n1, n2: 64 MB; n3: 8 GB" where hosts differ: what `text` says of each host's first
/// rank.
std::string by_host(const std::vector<Facts>& ranks,
                    const std::function<std::string(const Facts&)>& text);

}  // namespace trestle::launch::doctor
