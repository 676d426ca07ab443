// Did the launcher and MPI meet? The sentence a user reads when a job of N ranks would silently
// have become N jobs of one rank.
//
//   dist::MpiRuntime runtime(&argc, &argv);   // calls check_launch before it starts MPI
//   dist::check_world(runtime.size());
//
// LOCAL: a process that was refused has no peers to agree with. Pure functions of the environment,
// which unit tests replace.
#pragma once
#include <functional>
#include <optional>
#include <string>

namespace trestle::dist {

/// The value of an environment variable, if it is set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
std::optional<std::string> process_environment(const char* name);

/// Before MPI starts: throws Error(ExitCode::environment) if srun started this process as one of
/// several tasks and offers it no way to find the others.
void check_launch(const Environment& environment = process_environment);

/// After MPI has started: throws Error(ExitCode::environment) if MPI sees fewer ranks than the
/// launcher started. The launcher's count is OMPI_COMM_WORLD_SIZE (mpirun) or else, for a task of
/// an srun step, SLURM_STEP_NUM_TASKS. SLURM_NTASKS is not asked: it describes the allocation, and
/// in a batch script it stands beside programs that are meant to run alone.
void check_world(int mpi_size, const Environment& environment = process_environment);

/// True for a program typed in an interactive srun step of one task that offers no PMIx.
bool is_lone_task_of_step(const Environment& environment = process_environment);

}  // namespace trestle::dist
