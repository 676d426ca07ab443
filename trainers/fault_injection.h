// Faults on order, for tests of what a run does about them: `trestle train --inject SPEC`.
//
//   hang@rank1:step20     rank 1 does nothing any more from step 20 on
//   kill@rank1:step20     rank 1 is killed (SIGKILL)
//   slow=2x@rank1         every step's own work takes rank 1 twice as long
//   nan@rank1:step20      a gradient of rank 1 is not a number
//   desync@rank1:step20   rank 1 makes a collective call that the others do not make
//
//   FaultInjection faults({parse_fault("hang@rank1:step20")}, world);
//   faults.at_step_begin(step);                      // then forward and backward
//   faults.spoil_gradients(step, parameters);        // before they are looked at
//   faults.after_backward(compute_s);                // before waiting for anyone
//
// LOCAL, but for the faults themselves. THREADS: one.
#pragma once
#include "base/ids.h"
#include "dist/communicator.h"
#include "trainers/task.h"

#include <cstdint>
#include <string_view>
#include <vector>

namespace trestle::trainers {

struct Fault {
  enum class Kind : std::uint8_t { hang, kill, slow, nan, desync };
  Kind kind;
  int rank;
  std::int64_t step = -1;  ///< all but slow
  double factor = 1;       ///< slow
  bool operator==(const Fault&) const = default;
};

/// Throws Error(usage), with the fault that was meant where one is near.
Fault parse_fault(std::string_view spec);

class FaultInjection {
 public:
  FaultInjection() = default;
  /// Throws Error(usage) for a fault of a rank that is not there.
  FaultInjection(const std::vector<Fault>& faults, const dist::Communicator& world);

  void at_step_begin(Step step) const;
  void spoil_gradients(Step step, const std::vector<NamedParameter>& parameters) const;
  void after_backward(double compute_s) const;

 private:
  bool due(Fault::Kind kind, Step step) const;

  std::vector<Fault> mine_;
  const dist::Communicator* world_ = nullptr;
};

}  // namespace trestle::trainers
