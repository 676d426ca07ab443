#include "trainers/state.h"

namespace trestle::trainers {

checkpoint::Visitor TrainingState::visitor() {
  return [this](checkpoint::Scope& root) {
    checkpoint::Scope model = root.child("model");
    for (auto& parameter : parameters) {
      at::Tensor value = parameter.tensor.detach();
      model.tensor(parameter.name, value);
    }
    checkpoint::Scope optim = root.child("optim");
    optimizer.state(optim);
    checkpoint::Scope averages = root.child("ema");
    ema.state(averages);
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
