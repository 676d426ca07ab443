#include "launch/doctor/doctor.h"

#include "base/run_program.h"
#include "dist/mpi_runtime.h"
#include "dist/nccl_versions.h"
#include "launch/doctor/facts.h"
#include "launch/doctor/folder.h"
#include "launch/doctor/judges.h"
#include "trainers/check_recipe.h"
#include "trainers/options.h"
#include "trainers/plan.h"

#include <algorithm>
#include <chrono>

namespace trestle::launch::doctor {
namespace {

/// What a program says, on one of its two ways out; empty if it cannot be run.
std::string said_by(const std::string& command) {
  // A shell, because programs differ in whether they answer on stdout or stderr.
  const auto answer =
      run_program({"sh", "-c", command + " 2>&1"}, {.limit = std::chrono::seconds(10)});
  return answer.ok() ? answer.output : "";
}

Needs needs_of(const configs::Recipe& recipe, const std::vector<Facts>& ranks) {
  std::vector<std::string> hosts;
  for (const Facts& facts : ranks) hosts.push_back(facts.host());
  const auto task = trainers::check_recipe(recipe, static_cast<int>(ranks.size()));
  const trainers::Plan plan = trainers::make_plan(recipe, *task, hosts);
  const auto steps = recipe.section<trainers::TrainOptions>("train").steps;
  const auto saves = recipe.section<trainers::CheckpointOptions>("checkpoint");
  const auto often = [&](std::int64_t every) { return every > 0 ? (steps - 1) / every + 1 : 1; };
  std::int64_t kept = often(saves.every);
  if (saves.keep_last > 0) {
    const std::int64_t for_ever = saves.keep_every > 0 ? steps / saves.keep_every : 0;
    kept = std::min(kept, saves.keep_last + for_ever);
  }
  return {.rank_memory_bytes = plan.memory.total_bytes(),
          .checkpoint_bytes = plan.checkpoint_total_bytes(),
          .checkpoints = kept,
          .pictures = often(recipe.section<trainers::SampleOptions>("sample").every),
          .threads = recipe.section<trainers::DistOptions>("dist").threads};
}

}  // namespace

Report examine(const dist::Communicator& world, const Examination& what) {
  const std::vector<Facts> ranks = gather(world, world.agreed([] { return facts_of_this_rank(); }));
  const std::optional<Needs> needs = world.agreed([&]() -> std::optional<Needs> {
    if (!world.is_root() || !what.recipe) return std::nullopt;
    return needs_of(*what.recipe, ranks);
  });
  const std::vector<FolderFacts> folders = probe_folder(world, what.run_directory);
  if (!world.is_root()) return {};

  const Facts& root = ranks.front();
  const auto nccl = dist::nccl_versions();
  return {.findings = {judge_program(ranks),
                       judge_mpi({.library = dist::mpi_library_version(),
                                  .mpirun = said_by("mpirun --version | head -n 1")},
                                 root),
                       judge_slurm({.version = said_by("srun --version"),
                                    .mpi_list = said_by("srun --mpi=list")},
                                   root),
                       judge_ranks(ranks, what.refusal),
                       judge_hosts(ranks),
                       judge_clocks(ranks),
                       judge_cores(ranks, needs),
                       judge_threads(ranks, needs),
                       judge_memory(ranks, needs),
                       judge_gpus(ranks),
                       judge_nccl({.compiled = nccl.compiled, .loaded = nccl.loaded}),
                       judge_network(ranks),
                       judge_shm(ranks),
                       judge_memlock(ranks),
                       judge_stack(ranks),
                       judge_open_files(ranks),
                       judge_core_files(ranks),
                       judge_run_directory(what.run_directory.string(), folders),
                       judge_file_system(folders),
                       judge_renames(folders),
                       judge_claims(folders),
                       judge_sharing(folders),
                       judge_write_rate(folders, needs),
                       judge_space(folders, needs),
                       judge_inodes(folders, needs)},
          .hosts = hosts_of(ranks)};
}

}  // namespace trestle::launch::doctor
