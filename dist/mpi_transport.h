// Ranks as MPI processes. Internal to dist/, without mpi.h.
//
// Messages are non-blocking sends and receives on a communicator of the transport's own. Waiting
// polls and gives the core away between polls, because a wait inside the MPI library would spin on
// a core that computes.
#pragma once
#include "dist/transport.h"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace trestle::dist {

/// MPI counts in int: longer messages travel in pieces of at most this many bytes.
inline constexpr size_t kMpiPieceBytes = size_t{1} << 30;

/// COLLECTIVE over MPI_COMM_WORLD. Needs a live MpiRuntime. Tests pass small pieces.
std::shared_ptr<Transport> make_mpi_world_transport(size_t piece_bytes = kMpiPieceBytes);

}  // namespace trestle::dist
