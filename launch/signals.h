// Signals of a program that works in ranks: each asks it to stop at the next good place, with its
// work saved; none ends it at once, however often it comes.
//
//   StopSource& stop = watch_signals();   // before MPI starts
//
// SIGINT, SIGTERM and SIGUSR2 count always. SIGCONT counts under mpirun: when mpirun is asked to
// end (SIGTERM, Ctrl-C) its ranks get SIGCONT at once, SIGTERM one second later and SIGKILL one
// more second later, so SIGCONT is the only early notice. It does not count after the process had
// been stopped (SIGSTOP, Ctrl-Z): then it means "go on".
//
// SIGUSR1 asks for the flight ring (launch/watch.h) and stops nothing.
//
// LOCAL. THREADS: call it on the main thread before others start. The handlers only set a flag and
// stay for the life of the process. Under mpirun one thread, which blocks every signal, tells a
// SIGCONT after a stop from an early notice.
#pragma once
#include "base/stop.h"

namespace trestle::launch {

/// The program's one source, with the handlers in place.
StopSource& watch_signals();

/// True once after each SIGUSR1 (several in a row may count as one).
bool take_flight_request();

/// mpirun started this process (srun did not).
bool under_mpirun();

}  // namespace trestle::launch
