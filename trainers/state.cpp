#include "trainers/state.h"

namespace trestle::trainers {

checkpoint::Visitor TrainingState::visitor() {
  return [this](checkpoint::Scope& root) {
    checkpoint::Scope mine = branch_scope(root, branch, task.branches());
    engine.state(mine);
    checkpoint::Scope own = mine.child("task");
    task.state(own);
    checkpoint::Scope trainer = root.child("trainer");
    trainer.number("step", counters.step);
    trainer.number("position", counters.position);
    trainer.number("wall_s", counters.wall_s);
    trainer.text("bad_samples", counters.bad_samples);
    trainer.optional_number("skips_in_row", counters.skips_in_row);
  };
}

checkpoint::Scope branch_scope(checkpoint::Scope& root, int branch, int branches) {
  if (branches == 1) return root;
  checkpoint::Scope all = root.child("branches");
  for (int other = 0; other < branches; ++other) {
    if (other != branch) all.elsewhere(std::to_string(other));
  }
  return all.child(std::to_string(branch));
}

}  // namespace trestle::trainers
