// Ranks as threads of one process: the arithmetic of many ranks in a unit test, without MPI.
//
//   dist::simulate(128, [](dist::Communicator world) { ... });
//
// The same operations run as on MPI, on a progress thread of each rank's own (dist/progress.h), so
// results have the same bits. As a rule nothing that a rank issues begins before the rank next
// waits or tests: whoever reads a result before wait(), or writes an input, gets it wrong every
// time instead of now and then. Start::at_once is what MPI does.
#pragma once
#include "dist/communicator.h"
#include "dist/progress.h"

#include <functional>

namespace trestle::dist {

/// Runs body once per rank, each on a thread of its own, and returns when all have ended. If one
/// throws, ranks that wait for others get Error(ExitCode::peer) instead of waiting for ever, and
/// the first exception is rethrown here. The same holds for a rank that waits for one that has
/// returned.
void simulate(int ranks, const std::function<void(Communicator)>& body,
              Progress::Start start = Progress::Start::late);

}  // namespace trestle::dist
