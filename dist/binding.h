// Which cores each rank may use, with how many threads; said once at start-up, with a warning where
// ranks or threads get in each other's way.
//
//   auto bindings = dist::gather_bindings(world, dist::this_process());
//   dist::choose_threads(bindings);
//   at::set_num_threads(bindings[world.rank()].threads);
//   dist::BindingReport report = dist::judge(bindings);   // rank 0 logs lines and warnings
//
// gather_bindings is COLLECTIVE; everything else is LOCAL and gives the same on every rank.
#pragma once
#include "dist/communicator.h"

#include <string>
#include <vector>

namespace trestle::dist {

struct Binding {
  std::string host;
  std::vector<int> cpus;          ///< that the system lets this rank run on, ascending
  int threads = 0;                ///< that compute; 0: not chosen
  int host_cpus = 0;              ///< of the machine, or of the Slurm job on it
  bool pinned_by_mpirun = false;  ///< mpirun chose the cpus, by its default or by option

  bool operator==(const Binding&) const = default;
};

/// LOCAL. Of the machine this process runs on.
std::string host_name();

/// LOCAL. What the batch system calls this machine (SLURMD_NODENAME), which is what its commands
/// exclude; elsewhere the host's name. For sentences that name who is lost or slow.
std::string node_name();

/// This process; threads from OMP_NUM_THREADS, 0 where that is unset.
Binding this_process();

/// COLLECTIVE. Indexed by rank.
std::vector<Binding> gather_bindings(const Communicator& communicator, const Binding& mine);

/// Gives each rank that has not chosen its threads an equal share of the cpus which its host's
/// ranks may use together, at least 1 and at most its own cpus.
void choose_threads(std::vector<Binding>& bindings);

struct BindingReport {
  std::vector<std::string> lines;     ///< one a host
  std::vector<std::string> warnings;  ///< whole sentences
};

/// Warns where ranks that share cpus have more threads together than those cpus, where one rank has
/// more threads than cpus, and where mpirun's pinning leaves at least half of a host idle.
BindingReport judge(const std::vector<Binding>& bindings);

}  // namespace trestle::dist
