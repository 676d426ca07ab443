#include "trainers/check_recipe.h"

#include "base/error.h"
#include "data/sampler.h"
#include "trainers/optim/ema.h"
#include "trainers/options.h"
#include "trainers/summation.h"

#include <algorithm>
#include <string>

namespace trestle::trainers {
namespace {

/// Ranks whose losses exchange are together in every micro batch, so none may be empty.
void require_samples_everywhere(const configs::Recipe& recipe, const TrainOptions& train,
                                int ranks) {
  const data::BatchPlan first(train.global_batch, train.micro_batch, 0, ranks);  // a smallest share
  if (first.samples_here() > (first.micro_steps() - 1) * train.micro_batch) return;
  throw recipe.error_at(
      "train.micro_batch",
      fmt::format(
          "train.global_batch = {} on {} ranks in micro batches of {} leaves some ranks without "
          "samples in the last one (run.task = \"{}\" exchanges between ranks inside its loss, so "
          "each needs some). Make train.global_batch a multiple of the ranks, or change "
          "train.micro_batch.",
          train.global_batch, ranks, train.micro_batch, recipe.section<RunOptions>("run").task));
}

/// A save that is late is to fail and leave the run going, so it must not look hung before.
void require_save_ends_first(const configs::Recipe& recipe, const CheckpointOptions& saved) {
  const auto watch = recipe.section<WatchOptions>("dist");
  if (!watch.watchdog || saved.timeout_s < watch.checkpoint_timeout_s) return;
  const bool said_here = recipe.is_set("checkpoint.timeout_s");
  throw recipe.error_at(
      said_here ? "checkpoint.timeout_s" : "dist.checkpoint_timeout_s",
      fmt::format("checkpoint.timeout_s = {:g} is not less than dist.checkpoint_timeout_s = {:g} "
                  "(the watchdog would end the run before a late save could fail and leave it "
                  "going). {}.",
                  saved.timeout_s, watch.checkpoint_timeout_s,
                  said_here ? "Lower it, or raise dist.checkpoint_timeout_s"
                            : "Raise it, or lower checkpoint.timeout_s"));
}

/// Which objectives a task has and in which steps something of each is trained, as a text.
std::string rhythm(Task& task) {
  std::string text;
  const std::vector<ParameterGroup> groups = task.groups();
  for (const Objective& objective : task.objectives()) {
    text += fmt::format("  {} from step {} every {}:", objective.name, objective.first,
                        objective.every);
    for (const ParameterGroup& group : groups) {
      if (std::ranges::count(objective.groups, group.name) > 0)
        text += fmt::format(" [{}, {})", group.active.begin, group.active.end);
    }
    text += '\n';
  }
  return text;
}

}  // namespace

std::unique_ptr<Task> check_recipe(const configs::Recipe& recipe, int world) {
  recipe.check(schema_of(recipe));
  auto task = make_task(recipe, Materialise::meta);
  const int branches = task->branches(), ranks = std::max(world / branches, 1);
  if (world % branches != 0) {
    throw recipe.error_at(
        "run.task",
        fmt::format("run.task = \"{}\" works in {} branches, and {} {} not divide into them (all "
                    "branches have equally many). Start {} ranks, or a multiple of them "
                    "(validate: --world {}).",
                    recipe.section<RunOptions>("run").task, branches, world,
                    world == 1 ? "rank does" : "ranks do", branches, branches));
  }
  const auto train = recipe.section<TrainOptions>("train");
  if (train.global_batch < ranks) {
    throw recipe.error_at(
        "train.global_batch",
        fmt::format(
            "train.global_batch = {} is less than the {} ranks{} (every rank needs a sample of "
            "each step). Raise it, or start fewer ranks.",
            train.global_batch, ranks, branches > 1 ? " of a branch" : ""));
  }
  const auto sample = recipe.section<SampleOptions>("sample");
  const auto averages = averages_of(recipe);
  if (sample.weights != "ema" && sample.weights != "model" &&
      std::ranges::none_of(averages, [&](auto& a) { return a.name == sample.weights; })) {
    throw recipe.error_at(
        "sample.weights",
        fmt::format("sample.weights = \"{}\" is not kept (averages are \"ema\" and those that "
                    "ema.more names, as \"ema.<name>\"). Name one of them, or \"model\".",
                    sample.weights));
  }
  const auto saved = recipe.section<CheckpointOptions>("checkpoint");
  if (saved.keep_every > 0 && saved.keep_last == 0) {
    throw recipe.error_at(
        "checkpoint.keep_every",
        fmt::format("checkpoint.keep_every = {} has no effect (checkpoint.keep_last = 0 keeps all "
                    "checkpoints). Set keep_last to how many of the newest are to stay.",
                    saved.keep_every));
  }
  require_save_ends_first(recipe, saved);
  require_two_levels_possible(recipe, ranks);
  if (task->exchanges()) require_samples_everywhere(recipe, train, ranks);
  for (int branch = 1; branch < branches; ++branch) {
    const std::string here = rhythm(*make_task(recipe, Materialise::meta, branch));
    TRESTLE_ASSERT(here == rhythm(*task),
                   "branches 0 and {} train in different steps (in one the others would wait):\n{}"
                   "\n{}",
                   branch, rhythm(*task), here);
  }
  return task;
}

}  // namespace trestle::trainers
