#include "base/allocator.h"

#include <cstdint>
#include <limits>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace trestle {

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kGrowth = 64 << 20;  // bytes asked from the system at a time
  mallopt(M_MMAP_MAX, 0);            // no block has a mapping of its own, which free() would return
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, kGrowth);
#endif
}

bool populate(std::span<std::byte> memory) {
#ifdef MADV_POPULATE_WRITE
  static const auto page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uintptr_t before = (page_bytes - address % page_bytes) % page_bytes;
  if (memory.size() < before + page_bytes) return true;
  const std::size_t whole = (memory.size() - before) / page_bytes * page_bytes;
  return ::madvise(memory.data() + before, whole, MADV_POPULATE_WRITE) == 0;
#else
  return memory.empty();
#endif
}

}  // namespace trestle
