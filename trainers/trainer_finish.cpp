// Pictures along the way, and what follows the last step: the task's jobs and summary.json.
#include "base/error.h"
#include "base/log.h"
#include "trainers/grid.h"
#include "trainers/metrics/progress.h"
#include "trainers/trainer.h"

#include <filesystem>
#include <optional>
#include <sstream>

namespace trestle::trainers {
namespace {

/// COLLECTIVE. What a job found out in each branch; those of others as "branch-1/<name>".
std::map<std::string, double> results_of_branches(const dist::Mesh& mesh,
                                                  const std::map<std::string, double>& mine) {
  std::string bytes;
  for (const auto& [name, value] : mine) bytes += fmt::format("{} {}\n", name, value);
  const std::vector<std::string> of_ranks = mesh.world().all_gather_bytes(bytes);
  std::map<std::string, double> all;
  for (int branch = 0; branch < mesh.branches(); ++branch) {
    const auto first =
        static_cast<std::size_t>(branch) * static_cast<std::size_t>(mesh.data().size());
    std::istringstream in(of_ranks[first]);
    const std::string prefix = branch > 0 ? fmt::format("branch-{}/", branch) : "";
    std::string name, value;
    while (in >> name >> value) all[prefix + name] = std::stod(value);
  }
  return all;
}

}  // namespace

bool Trainer::grid_is_missing() const {
  const std::int64_t step = assembly_.counters.step;
  if (step == 0 || !due(sample_.every, step)) return false;
  const bool there = world_.is_root() && std::filesystem::exists(directory_.sample(step));
  return world_.broadcast_bytes(there ? "there" : "", 0).empty();
}

void Trainer::make_grid() {
  const dist::PhaseScope drawing(settings_.flight, dist::Phase::pictures);
  world_.agreed([&] { hold_->check(); });
  const Engine::Averaged averaged(assembly_.engine, sample_.weights);
  const auto file = directory_.sample(assembly_.counters.step);
  try {
    const auto grid =
        write_grid(*assembly_.task, draws_, mesh_, sample_.pictures, file, settings_.stop);
    if (recorder_) recorder_->picture(assembly_.counters.step, grid);
    log_info("pictures: {}", file.string());
  } catch (const Error& error) {  // agreed. A full disk costs the pictures, not the run.
    if (error.code() != ExitCode::environment) throw;
    log_common_warning(fmt::format("no pictures: {} The run goes on.", error.what()));
  }
}

void Trainer::finish() {
  make_grid();
  const dist::PhaseScope evaluating(settings_.flight, dist::Phase::evaluate);
  const RunCounters& counters = assembly_.counters;
  std::map<std::string, double> summary = {
      {"steps", double(counters.step)},
      {"samples_per_s", double(counters.position) / counters.wall_s},
      {"wall_s", counters.wall_s},
      {"checkpoint_wait_ms", 1e3 * saver_.waited_s()}};
  const Engine::Averaged averaged(assembly_.engine, sample_.weights);
  for (const auto& job : assembly_.task->jobs()) {
    std::optional<Progress> progress;
    std::int64_t done = 0;
    const std::int64_t ranks = mesh_.data().size();
    const std::int64_t mine = (job->size() + ranks - 1) / ranks;
    if (world_.is_root()) progress.emplace(std::string(job->name()), "items", 0, mine, mine);
    JobContext context{.world = mesh_.data(),
                       .draws = draws_,
                       .advance =
                           [&](std::int64_t items) {
                             hold_->check();
                             done += items;
                             if (progress) progress->update(done, "");
                           },
                       .stop = settings_.stop,
                       .results = {}};
    mesh_.in_each_branch([&] { run_job(*job, context); });
    summary.merge(mesh_.branches() > 1 ? results_of_branches(mesh_, context.results)
                                       : context.results);
  }
  world_.agreed([&] {
    hold_->check();
    if (world_.is_root()) directory_.write_summary(summary);
  });
  log_info("summary ({}):", directory_.summary().string());
  for (const auto& [name, value] : summary) log_info("  {:<24} {:.6g}", name, value);
}

}  // namespace trestle::trainers
