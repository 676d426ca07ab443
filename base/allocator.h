// How memory comes from the system and goes back to it. LOCAL.
#pragma once
#include <cstddef>
#include <span>

namespace trestle {

/// Keeps freed memory in the process instead of returning it. Call it once, before other threads
/// start. A training step asks for the same sizes again and again; returned pages would be cleared
/// and mapped anew each time (about a tenth of a CPU step). Memory stays at its peak, which
/// training holds anyway. Does nothing where the C library has no such settings.
void keep_freed_memory();

/// Has the kernel give all whole pages of `memory` now, in one call, where writing would take them
/// one fault at a time. What stands there stays. False where the kernel cannot (Linux before 5.14)
/// or has no memory left: then the pages come as they are written to. THREADS: any.
bool populate(std::span<std::byte> memory);

}  // namespace trestle
