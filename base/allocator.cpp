#include "base/allocator.h"

#include <limits>

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

}  // namespace trestle
