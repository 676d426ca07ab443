// The checks of `trestle doctor` on launchers, machines and limits: each a function of facts.
// docs/doctor.md lists them. LOCAL. THREADS: any.
#pragma once
#include "launch/doctor/facts.h"
#include "launch/doctor/finding.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace trestle::launch::doctor {

/// What a recipe will need, where one is given.
struct Needs {
  std::int64_t rank_memory_bytes = 0;  ///< of tensors
  std::int64_t checkpoint_bytes = 0;   ///< of tensors
  std::int64_t checkpoints = 0;        ///< that will lie there at once
  std::int64_t pictures = 0;           ///< files of grids
  std::int64_t threads = 0;            ///< dist.threads
};

// Launchers.

/// Whether all hosts run the same executable.
Finding judge_program(const std::vector<Facts>& ranks);

struct MpiFacts {
  std::string library;  ///< as the loaded library calls itself
  std::string mpirun;   ///< what the one in PATH says of its version; empty: there is none
};
Finding judge_mpi(const MpiFacts& mpi, const Facts& root);

struct SlurmFacts {
  std::string version;   ///< what srun says; empty: there is no srun
  std::string mpi_list;  ///< what srun --mpi=list says
};
Finding judge_slurm(const SlurmFacts& slurm, const Facts& root);

/// `refusal`: why the launcher and MPI did not meet (dist/launch_check.h); empty where they did.
Finding judge_ranks(const std::vector<Facts>& ranks, const std::string& refusal);
Finding judge_hosts(const std::vector<Facts>& ranks);
Finding judge_clocks(const std::vector<Facts>& ranks);

// Machines.

/// How cores are bound, against the threads that a run will start (dist/binding.h).
Finding judge_cores(const std::vector<Facts>& ranks, const std::optional<Needs>& needs);
Finding judge_threads(const std::vector<Facts>& ranks, const std::optional<Needs>& needs);
Finding judge_memory(const std::vector<Facts>& ranks, const std::optional<Needs>& needs);
Finding judge_gpus(const std::vector<Facts>& ranks);

struct NcclVersions {
  int compiled = 0, loaded = 0;  ///< 22809 is 2.28.9; 0: built without CUDA
};
Finding judge_nccl(const NcclVersions& versions);
Finding judge_network(const std::vector<Facts>& ranks);

// Limits.

Finding judge_shm(const std::vector<Facts>& ranks);
Finding judge_memlock(const std::vector<Facts>& ranks);
Finding judge_stack(const std::vector<Facts>& ranks);
Finding judge_open_files(const std::vector<Facts>& ranks);
Finding judge_core_files(const std::vector<Facts>& ranks);

}  // namespace trestle::launch::doctor
