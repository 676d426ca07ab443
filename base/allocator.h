// How the C library hands memory back to the system. LOCAL. Call it once, before other threads
// start.
#pragma once

namespace trestle {

/// Keeps freed memory in the process instead of returning it. A training step asks for the same
/// sizes again and again; returned pages would be cleared and mapped anew each time (about a tenth
/// of a CPU step). Memory stays at its peak, which training holds anyway. Does nothing where the C
/// library has no such settings.
void keep_freed_memory();

}  // namespace trestle
