// Every rank connected with rank 0 by a socket of its own, outside of MPI; the watchdog talks so.
//
//   std::vector<std::optional<PeerLink>> links = dist::connect_star(world, deadline_s);
//   // rank 0: links[1..]; the others: links[0]
//
// Rank 0's addresses and a random token travel once over the communicator. Whoever cannot show the
// token is turned away.
// COLLECTIVE; fails on all ranks or on none (ExitCode::environment). THREADS: one.
#pragma once
#include "dist/communicator.h"
#include "dist/peer_link.h"

#include <optional>
#include <vector>

namespace trestle::dist {

std::vector<std::optional<PeerLink>> connect_star(const Communicator& world, double deadline_s);

}  // namespace trestle::dist
