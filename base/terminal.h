// Is somebody watching? Under mpirun a rank's stderr is a pipe even when mpirun itself writes to a
// terminal, so the launcher is asked too. LOCAL. THREADS: any.
#pragma once
#include <cstddef>

namespace trestle {

/// True where what goes to stderr ends on a terminal, directly or through a local mpirun.
bool stderr_is_terminal();

/// Its width; 80 where that is unknown.
std::size_t terminal_columns();

}  // namespace trestle
