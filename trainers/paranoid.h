// The plain step beside the engine: every step is made twice, from the same weights and data, and
// what both make of it is compared: sums of gradients, masters and averages, element by element.
//
//   Paranoid paranoid(task, engine, plain_collectives, options);
//   checkpoint::load(folder, paranoid.visitor(), {.unnamed = Unnamed::ignore});  // on resuming
//   StepReport report = paranoid.step(inputs);                       // instead of engine.step()
//
// Equal bits are demanded where both sum in the same order: one micro batch a step (or no
// shard = "gradients"), gradients that travel in what they are summed in, and that are summed in
// rank order (not in two levels). Otherwise max |a - b| <= 1e-6 max |b|, and 2e-2 with bf16 on the
// wire. For gradients max |b| is that of what the ranks bring, added up, since a sum may be next to
// nothing; for masters and averages it is that of the whole tensor.
// COLLECTIVE. THREADS: one. ERRORS: ExitCode::numbers on every rank, naming rank, step and
// parameter.
#pragma once
#include "trainers/engine.h"
#include "trainers/plain_step.h"

#include <map>
#include <string>
#include <vector>

namespace trestle::trainers {

class Paranoid {
 public:
  /// Shadows the engine's state as it is now. `plain` is a channel of its own.
  Paranoid(Task& task, Engine& engine, dist::Collectives& plain, const EngineOptions& options);

  StepReport step(const StepInputs& inputs);

  /// Masters, moments and averages of the plain side, under the names of the engine's.
  checkpoint::Visitor visitor(int branch = 0);

 private:
  StepReport plain_side(const StepInputs& inputs, std::vector<data::Batch>& batches);
  void compare(const StepInputs& inputs, const StepReport& plain, const StepReport& fast) const;

  Task& task_;
  Engine& engine_;
  dist::Collectives& plain_;
  EngineOptions options_;
  std::vector<Objective> objectives_;
  std::vector<PlainGroup> groups_;
  std::vector<std::vector<at::Tensor>> gradients_;  ///< of the last step, by group and leaf
  std::map<std::string, double, std::less<>> gradient_sizes_;
};

}  // namespace trestle::trainers
