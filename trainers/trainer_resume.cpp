// Where a run goes on from: the newest checkpoint of the run directory, if it is of this recipe.
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "configs/differences.h"
#include "trainers/trainer.h"

#include <filesystem>

namespace trestle::trainers {

void Trainer::resume() {
  const auto found = checkpoint::newest(world_, directory_.checkpoints());
  std::string another_order;
  world_.agreed([&] {
    if (found) {
      const checkpoint::Manifest manifest = checkpoint::read_manifest(*found);
      require_same_recipe(manifest.recipe_toml, found->string(), ExitCode::checkpoint);
      another_order = summation_.change_since(manifest);
    } else if (std::filesystem::exists(directory_.resolved_recipe())) {
      require_same_recipe(directory_.read_resolved_recipe(), directory_.root().string(),
                          ExitCode::usage);
    }
  });
  if (!found) return;
  world_.agreed([&] {
    TrainingState state = assembly_.state();
    checkpoint::load(*found, state.visitor());
    if (paranoid_)
      checkpoint::load(*found, paranoid_->visitor(mesh_.branch()), checkpoint::Unnamed::ignore);
  });
  assembly_.engine.publish();
  saver_.found(*found, assembly_.counters.step);
  log_info("resumed from {} at step {}", found->string(), assembly_.counters.step);
  if (!another_order.empty()) log_common_warning(another_order);
}

void Trainer::require_same_recipe(const std::string& resolved_before, const std::string& holder,
                                  ExitCode code) const {
  std::vector<std::string> lines;
  for (const auto& d : configs::differences(resolved_before, resolved_, schema_)) {
    if (d.may_change) continue;
    const auto said = [](const std::string& value) { return value.empty() ? "unknown" : value; };
    lines.push_back(fmt::format("{}: {} there, {} now", d.name, said(d.before), said(d.now)));
  }
  if (lines.empty()) return;
  if (settings_.changed_recipe == ChangedRecipe::accept) {
    log_common_warning(fmt::format("{} was made with another recipe, as accepted:\n  {}", holder,
                                   fmt::join(lines, "\n  ")));
    return;
  }
  fail(code,
       "{} was made with another recipe ({} differences decide the result). Use its recipe, choose "
       "another --run-dir, or go on with --accept-changes:\n  {}",
       holder, lines.size(), fmt::join(lines, "\n  "));
}

}  // namespace trestle::trainers
