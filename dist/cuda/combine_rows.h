// What NCCL's own reductions do not keep, done by a kernel on pieces that have been gathered: sums
// of bfloat16 in float32 (NCCL rounds every partial sum to the type on the wire) and max and min
// that keep a NaN (NCCL's drop it). In rank order, with the bits of dist/reduce.h.
#pragma once
#include "dist/communicator.h"
#include "dist/operations.h"

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trestle::dist {

/// `count` elements of every rank, rank r's at gathered + r * count; only this rank's may stand
/// elsewhere, at `own`.
struct Rows {
  const void* gathered;
  const void* own;
  int rank, size;
  std::int64_t count;
};

/// out[i] = row 0 [i] op row 1 [i] op ..., from left to right, in the type of the sum; `out` may be
/// `own` or row 0. On the current device; returns when it is on the stream.
void combine_rows(const Rows& rows, Arithmetic arithmetic, ReduceOp op, void* out,
                  cudaStream_t stream);

}  // namespace trestle::dist
