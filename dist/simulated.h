// Ranks as threads of one process: the arithmetic of many ranks in a unit test, without MPI.
//
//   dist::simulate(128, [](dist::Communicator world) { ... });
//
// The same algorithms run as on MPI (both are a dist::Transport), so results have the same bits.
#pragma once
#include "dist/communicator.h"

#include <functional>

namespace trestle::dist {

/// Runs body once per rank, each on a thread of its own, and returns when all have ended. If one
/// throws, ranks that wait for others get Error(ExitCode::peer) instead of waiting for ever, and
/// the first exception is rethrown here. The same holds for a rank that waits for one that has
/// returned.
void simulate(int ranks, const std::function<void(Communicator)>& body);

}  // namespace trestle::dist
