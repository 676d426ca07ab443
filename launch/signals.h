// Signals of a program that works in ranks: each asks it to stop at the next good place, with its
// work saved; none ends it at once, however often it comes.
//
//   StopSource& stop = watch_signals();   // before MPI starts
//
// SIGINT, SIGTERM and SIGUSR2 count from the start; stop_on() says which do once the recipe is
// known, and SIGINT always does. SIGCONT counts under mpirun: when mpirun is asked to end (SIGTERM,
// Ctrl-C) its ranks get SIGCONT at once, SIGTERM one second later and SIGKILL one more second
// later, so SIGCONT is the only early notice. It does not count after the process had been stopped
// (SIGSTOP, Ctrl-Z): then it means "go on".
//
// SIGUSR1 asks for the flight ring (launch/watch.h) and stops nothing, unless stop_on() names it.
//
// LOCAL. THREADS: call watch_signals() on the main thread before others start, stop_on() on any
// one. The handlers only set a flag and stay for the life of the process. Under mpirun one thread,
// which blocks every signal, tells a SIGCONT after a stop from an early notice.
#pragma once
#include "base/stop.h"

#include <string>
#include <vector>

namespace trestle::launch {

/// The program's one source, with the handlers in place.
StopSource& watch_signals();

/// What else may ask this program to stop; the source that watch_signals() returns.
StopSource& stop_source();

/// From now on these signals ask to stop ("TERM", "USR2", ...), besides SIGINT. One that was
/// watched and is not named is ignored; no moment is without a handler, and no request is taken
/// back.
void stop_on(const std::vector<std::string>& names);

/// True once after each SIGUSR1 (several in a row may count as one).
bool take_flight_request();

/// mpirun started this process (srun did not).
bool under_mpirun();

}  // namespace trestle::launch
