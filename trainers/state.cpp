#include "trainers/state.h"

namespace trestle::trainers {

checkpoint::Visitor TrainingState::visitor() {
  return [this](checkpoint::Scope& root) {
    engine.state(root);
    checkpoint::Scope own = root.child("task");
    task.state(own);
    checkpoint::Scope trainer = root.child("trainer");
    trainer.number("step", counters.step);
    trainer.number("position", counters.position);
    trainer.number("wall_s", counters.wall_s);
    trainer.text("bad_samples", counters.bad_samples);
  };
}

}  // namespace trestle::trainers
