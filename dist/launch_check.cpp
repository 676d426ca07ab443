#include "dist/launch_check.h"

#include "base/error.h"

#include <charconv>
#include <cstdlib>

namespace trestle::dist {
namespace {

std::optional<int> count(const Environment& environment, const char* name) {
  const std::optional<std::string> text = environment(name);
  if (!text) return std::nullopt;
  int value = 0;
  const char* end = text->data() + text->size();
  const auto [stop, error] = std::from_chars(text->data(), end, value);
  if (error != std::errc() || stop != end || value < 1) return std::nullopt;
  return value;
}

/// How many tasks the srun step has that this process is a task of. None for programs that mpirun
/// started (also inside a step) and for those that run in a batch script.
std::optional<int> tasks_of_step(const Environment& environment) {
  if (environment("OMPI_COMM_WORLD_SIZE") || !environment("SLURM_PROCID")) return std::nullopt;
  return count(environment, "SLURM_STEP_NUM_TASKS");
}

bool offers_pmi(const Environment& environment) {
  return environment("PMIX_RANK") || environment("PMI_RANK");
}

[[noreturn]] void refuse_srun(int tasks, const std::string& what_mpi_sees) {
  fail(ExitCode::environment,
       "srun started {} tasks, but {} (srun and MPI did not meet: Open MPI finds its peers through "
       "PMIx). Launch with \"srun --mpi=pmix trestle ...\" (\"srun --mpi=list\" shows what this "
       "Slurm offers), or inside the allocation with \"mpirun -n {} trestle ...\".",
       tasks, what_mpi_sees, tasks);
}

std::string ranks(int size) { return fmt::format("{} rank{}", size, size == 1 ? "" : "s"); }

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::optional<std::string>(value) : std::nullopt;
}

void check_launch(const Environment& environment) {
  const std::optional<int> tasks = tasks_of_step(environment);
  if (tasks && *tasks > 1 && !offers_pmi(environment)) {
    refuse_srun(*tasks, "gave them no PMIx to find each other");
  }
}

void check_world(int mpi_size, const Environment& environment) {
  const std::optional<int> started = count(environment, "OMPI_COMM_WORLD_SIZE");
  if (started && *started != mpi_size) {
    fail(ExitCode::environment,
         "mpirun started {} processes, but MPI sees {} (mpirun belongs to another MPI installation "
         "than the one this program is linked with). Put the mpirun of that installation first in "
         "PATH (\"ldd trestle\" shows its libmpi), or launch with \"srun --mpi=pmix trestle ...\".",
         *started, ranks(mpi_size));
  }
  // A step may be one component of a larger heterogeneous job: more ranks than its tasks are right.
  const std::optional<int> tasks = tasks_of_step(environment);
  if (tasks && mpi_size < *tasks) refuse_srun(*tasks, "MPI sees " + ranks(mpi_size));
}

bool is_lone_task_of_step(const Environment& environment) {
  return tasks_of_step(environment) == 1 && !offers_pmi(environment);
}

}  // namespace trestle::dist
