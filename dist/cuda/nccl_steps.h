// The operations of Collectives as steps on a lane's stream, on plain device memory. Internal to
// the NCCL backend; free of torch.
//
// Sums of float32, float64 and int64, and max and min of int64, are NCCL's own. The other
// reductions gather pieces into `staging` and combine them in rank order (combine_rows.h), over as
// many rounds as the staging memory makes necessary. It is used by one operation at a time, since
// they stand on one stream.
#pragma once
#include "dist/cuda/nccl_operation.h"
#include "dist/operations.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace trestle::dist {

struct NcclRanks {
  int rank, size;
};

/// How much staging memory a reduction of `count` elements a rank wants; 0 where it is NCCL's own.
std::size_t staging_bytes(NcclRanks ranks, std::int64_t count, Arithmetic arithmetic, ReduceOp op);

/// In place.
std::vector<NcclStep> all_reduce_steps(NcclRanks ranks, void* data, std::int64_t count,
                                       Arithmetic arithmetic, ReduceOp op,
                                       std::span<std::byte> staging);
/// `count` elements a rank; `out` may be this rank's part of `in`.
std::vector<NcclStep> reduce_scatter_steps(NcclRanks ranks, const void* in, void* out,
                                           std::int64_t count, Arithmetic arithmetic, ReduceOp op,
                                           std::span<std::byte> staging);
std::vector<NcclStep> all_gather_steps(std::span<const std::byte> mine, std::byte* all);
std::vector<NcclStep> broadcast_steps(std::span<std::byte> bytes, int root);
/// On a lane of two: the sender is its rank 0.
std::vector<NcclStep> send_steps(std::span<const std::byte> bytes);
std::vector<NcclStep> recv_steps(std::span<std::byte> bytes);

}  // namespace trestle::dist
