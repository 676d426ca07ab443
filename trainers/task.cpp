#include "trainers/task.h"

#include "configs/nearest.h"
#include "trainers/options.h"

namespace trestle::trainers {

std::vector<Objective> Task::objectives() {
  Objective all{.name = "loss", .groups = {}};
  for (const auto& group : groups()) all.groups.push_back(group.name);
  return {all};
}

const TaskKind& task_kind_of(const configs::Recipe& recipe) {
  const auto run = recipe.section<RunOptions>("run");
  std::vector<std::string> names;
  for (const TaskKind* kind : task_kinds()) {
    if (kind->name == run.task) return *kind;
    names.emplace_back(kind->name);
  }
  if (run.task.empty()) {
    throw recipe.error_at("run.task",
                          fmt::format("run.task is not set (it says what is trained). Set "
                                      "run.task to one of: {}.",
                                      fmt::join(names, ", ")));
  }
  throw recipe.error_at(
      "run.task",
      fmt::format("run.task = \"{}\" is not a task of this program (it was built with: {}). "
                  "Did you mean \"{}\"?",
                  run.task, fmt::join(names, ", "), configs::nearest(run.task, names)));
}

std::unique_ptr<Task> make_task(const configs::Recipe& recipe, Materialise materialise,
                                int branch) {
  auto task = task_kind_of(recipe).make(recipe, materialise);
  if (task->branches() > 1) task->enter_branch(branch);
  return task;
}

}  // namespace trestle::trainers
