// Ranks as MPI processes. Internal to dist/, without mpi.h.
//
// From start_mpi_transport() to stop_mpi_transport() all MPI calls of the process are made by one
// progress thread, on a communicator of its own: non-blocking sends and receives, polled while
// anything is under way (dist/progress.h says how).
#pragma once
#include "dist/channel.h"

#include <functional>
#include <memory>

namespace trestle::dist {

/// COLLECTIVE. After MPI_Init_thread, on the thread that called it.
void start_mpi_transport();
/// LOCAL. Before MPI_Finalize; what is still under way is withdrawn.
void stop_mpi_transport();

/// Runs f on the thread that may call MPI, and waits for it.
void run_on_mpi_thread(std::function<void()> f);

/// COLLECTIVE. All ranks, on a channel of their own.
std::shared_ptr<Channel> make_mpi_world_channel();

}  // namespace trestle::dist
