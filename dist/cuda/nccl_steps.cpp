#include "dist/cuda/nccl_steps.h"

#include "dist/cuda/combine_rows.h"

#include <algorithm>

namespace trestle::dist {
namespace {

constexpr std::size_t kMostStagingBytes = std::size_t{32} << 20;

struct Element {
  ncclDataType_t type;
  std::int64_t bytes;      ///< on the wire
  std::int64_t sum_bytes;  ///< in the sum
};

Element element_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::float32:
      return {ncclFloat32, 4, 4};
    case Arithmetic::float64:
      return {ncclFloat64, 8, 8};
    case Arithmetic::int64:
      return {ncclInt64, 8, 8};
    case Arithmetic::bfloat16_to_float32:
      return {ncclBfloat16, 2, 4};
  }
  TRESTLE_ASSERT(false, "unknown arithmetic");
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  TRESTLE_ASSERT(false, "unknown reduction");
}

bool is_nccls_own(Arithmetic arithmetic, ReduceOp op) {
  if (arithmetic == Arithmetic::int64) return true;
  return op == ReduceOp::sum && arithmetic != Arithmetic::bfloat16_to_float32;
}

/// How many elements a rank fit into the staging memory.
std::int64_t piece(NcclRanks ranks, std::int64_t count, const Element& element,
                   std::size_t staging) {
  return std::min(count, static_cast<std::int64_t>(staging) / (ranks.size * element.bytes));
}

bool goes_on(ncclResult_t code) { return code == ncclSuccess || code == ncclInProgress; }

/// Everyone's piece for this rank, into gathered[rank]; its own is left out.
ncclResult_t exchange(NcclRanks ranks, const std::byte* in, std::int64_t slice_bytes,
                      std::byte* gathered, std::int64_t piece_bytes, ncclComm_t communicator,
                      cudaStream_t stream) {
  if (const ncclResult_t code = ncclGroupStart(); code != ncclSuccess) return code;
  ncclResult_t code = ncclSuccess;
  for (int k = 1; k < ranks.size && goes_on(code); ++k) {
    const int to = (ranks.rank + k) % ranks.size, from = (ranks.rank + ranks.size - k) % ranks.size;
    code = ncclSend(in + to * slice_bytes, piece_bytes, ncclInt8, to, communicator, stream);
    if (!goes_on(code)) break;
    code =
        ncclRecv(gathered + from * piece_bytes, piece_bytes, ncclInt8, from, communicator, stream);
  }
  const ncclResult_t end = ncclGroupEnd();  // also after a failure: the group must not stay open
  return goes_on(code) ? end : code;
}

}  // namespace

std::size_t staging_bytes(NcclRanks ranks, std::int64_t count, Arithmetic arithmetic, ReduceOp op) {
  if (is_nccls_own(arithmetic, op)) return 0;
  const auto row = static_cast<std::size_t>(ranks.size * element_of(arithmetic).bytes);
  return row * std::min<std::size_t>(count, std::max<std::size_t>(1, kMostStagingBytes / row));
}

std::vector<NcclStep> all_reduce_steps(NcclRanks ranks, void* data, std::int64_t count,
                                       Arithmetic arithmetic, ReduceOp op,
                                       std::span<std::byte> staging) {
  if (count == 0) return {};
  const Element element = element_of(arithmetic);
  if (is_nccls_own(arithmetic, op)) {
    return {[=](ncclComm_t communicator, cudaStream_t stream) {
      return ncclAllReduce(data, data, count, element.type, nccl_op(op), communicator, stream);
    }};
  }
  std::vector<NcclStep> steps;
  const std::int64_t most = piece(ranks, count, element, staging.size());
  for (std::int64_t begin = 0; begin < count; begin += most) {
    std::byte* const part = static_cast<std::byte*>(data) + begin * element.bytes;
    const std::int64_t length = std::min(most, count - begin);
    steps.emplace_back([=](ncclComm_t communicator, cudaStream_t stream) {
      return ncclAllGather(part, staging.data(), length, element.type, communicator, stream);
    });
    steps.emplace_back([=](ncclComm_t, cudaStream_t stream) {
      combine_rows({staging.data(), part, ranks.rank, ranks.size, length}, arithmetic, op, part,
                   stream);
      return ncclSuccess;
    });
  }
  return steps;
}

std::vector<NcclStep> reduce_scatter_steps(NcclRanks ranks, const void* in, void* out,
                                           std::int64_t count, Arithmetic arithmetic, ReduceOp op,
                                           std::span<std::byte> staging) {
  if (count == 0) return {};
  const Element element = element_of(arithmetic);
  if (is_nccls_own(arithmetic, op)) {
    return {[=](ncclComm_t communicator, cudaStream_t stream) {
      return ncclReduceScatter(in, out, count, element.type, nccl_op(op), communicator, stream);
    }};
  }
  std::vector<NcclStep> steps;
  const std::int64_t most = piece(ranks, count, element, staging.size());
  const std::int64_t slice_bytes = count * element.bytes;
  for (std::int64_t begin = 0; begin < count; begin += most) {
    const auto* const first = static_cast<const std::byte*>(in) + begin * element.bytes;
    auto* const sums = static_cast<std::byte*>(out) + begin * element.sum_bytes;
    const std::int64_t length = std::min(most, count - begin);
    steps.emplace_back([=](ncclComm_t communicator, cudaStream_t stream) {
      return exchange(ranks, first, slice_bytes, staging.data(), length * element.bytes,
                      communicator, stream);
    });
    steps.emplace_back([=](ncclComm_t, cudaStream_t stream) {
      combine_rows(
          {staging.data(), first + ranks.rank * slice_bytes, ranks.rank, ranks.size, length},
          arithmetic, op, sums, stream);
      return ncclSuccess;
    });
  }
  return steps;
}

std::vector<NcclStep> all_gather_steps(std::span<const std::byte> mine, std::byte* all) {
  if (mine.empty()) return {};
  return {[=](ncclComm_t communicator, cudaStream_t stream) {
    return ncclAllGather(mine.data(), all, mine.size(), ncclInt8, communicator, stream);
  }};
}

std::vector<NcclStep> broadcast_steps(std::span<std::byte> bytes, int root) {
  if (bytes.empty()) return {};
  return {[=](ncclComm_t communicator, cudaStream_t stream) {
    return ncclBroadcast(bytes.data(), bytes.data(), bytes.size(), ncclInt8, root, communicator,
                         stream);
  }};
}

std::vector<NcclStep> send_steps(std::span<const std::byte> bytes) {
  return {[=](ncclComm_t communicator, cudaStream_t stream) {
    return ncclSend(bytes.data(), bytes.size(), ncclInt8, 1, communicator, stream);
  }};
}

std::vector<NcclStep> recv_steps(std::span<std::byte> bytes) {
  return {[=](ncclComm_t communicator, cudaStream_t stream) {
    return ncclRecv(bytes.data(), bytes.size(), ncclInt8, 0, communicator, stream);
  }};
}

}  // namespace trestle::dist
