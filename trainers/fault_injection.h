// Faults on order, for tests of what a run does about them: `trestle train --inject SPEC`.
//
//   hang@rank1:step20     rank 1 does nothing any more from step 20 on
//   kill@rank1:step20     rank 1 is killed (SIGKILL)
//   kill@rank1:save-staged[@step20]   the same, at this step of a save (checkpoint/save_step.h), of
//                         the first, or of the first of at least 20 training steps
//   slow=2x@rank1         every step's own work takes rank 1 twice as long
//   nan@rank1:step20      a gradient of rank 1 is not a number
//   desync@rank1:step20   rank 1 makes a collective call that the others do not make
//
//   FaultInjection faults({parse_fault("hang@rank1:step20")}, world, collectives.communicator());
//   faults.at_step_begin(step, parameters);          // then forward and backward
//   faults.stretch(own_s);                           // the step less its waiting
//
// LOCAL, but for the faults themselves. THREADS: one.
#pragma once
#include "base/ids.h"
#include "checkpoint/save_step.h"
#include "dist/communicator.h"
#include "trainers/task.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::trainers {

struct Fault {
  enum class Kind : std::uint8_t { hang, kill, slow, nan, desync };
  Kind kind = Kind::hang;
  int rank = 0;
  std::int64_t step = -1;  ///< all but slow; -1 where save_at is: the first save
  double factor = 1;       ///< slow
  std::optional<checkpoint::SaveStep> save_at = std::nullopt;  ///< kill: in a save, not in a step
  bool operator==(const Fault&) const = default;
};

/// Throws Error(usage), with the fault that was meant where one is near.
Fault parse_fault(std::string_view spec);

/// "save-begun, save-staged, ...": where a kill may be ordered.
std::string save_steps_text();

class FaultInjection {
 public:
  FaultInjection() = default;
  /// Faults name ranks of `world`. `channel` is the step's, where desync happens; it must outlive
  /// this. Throws Error(usage) for a fault of a rank that is not there. Those of saves happen from
  /// now on to this process, whatever becomes of the object.
  FaultInjection(const std::vector<Fault>& faults, const dist::Communicator& world,
                 const dist::Communicator& channel);

  /// Hangs, dies, leaves the order of calls, or sees to it that the last parameter's gradient is
  /// not a number in this step.
  void at_step_begin(Step step, const std::vector<NamedParameter>& parameters);
  /// Sleeps for as long as its work is to be slower; returns how long.
  double stretch(double own_s) const;

 private:
  bool due(Fault::Kind kind, Step step) const;

  std::vector<Fault> mine_;
  std::optional<std::pair<at::Tensor, unsigned>> spoiled_;  ///< and the hook that does it
  const dist::Communicator* channel_ = nullptr;
};

}  // namespace trestle::trainers
