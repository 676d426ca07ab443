// Which number of a step was not finite, as all ranks tell it. THREADS: one.
#pragma once
#include "dist/communicator.h"
#include "trainers/step.h"

#include <string>

namespace trestle::trainers {

/// COLLECTIVE. The lowest rank's problem; where each rank's numbers are finite, the sum's.
/// `problem` is this rank's ("": none), `parameter` the first whose sum over the ranks of a branch
/// (`branch_ranks` of them) is not finite, as far as this rank holds it ("": none).
std::string describe_not_finite(const dist::Communicator& everyone, int branch_ranks, Step step,
                                const std::string& problem, const std::string& parameter,
                                const ObjectiveReport& report);

}  // namespace trestle::trainers
