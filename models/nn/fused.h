// When the fused CPU kernels run, and how they share work. Included by the .cpp files of fused
// layers.
//
// Results never depend on the number of threads: sums over rows are taken block by block
// (kBlockRows rows, never across two samples) and the blocks are added in order.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace trestle::models::nn {

/// True where the fused kernels apply: float on the CPU. fp64 runs are compared with a reference's
/// own operations, so they (and every other device) keep to ATen.
inline bool runs_fused(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat;
}

namespace fused {

/// Adds one to fused_calls() (activations.h).
void count_call();

constexpr std::int64_t kGrain = 32768;   // floats a thread should at least have
constexpr std::int64_t kBlockRows = 64;  // rows whose sums are taken together

inline std::int64_t blocks_of(std::int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

/// Calls body(block, sample, first_row, end_row) for each block of rows of each sample; rows count
/// through the whole batch, blocks too.
template <class Body>
void for_row_blocks(std::int64_t samples, std::int64_t rows, std::int64_t channels,
                    const Body& body) {
  const std::int64_t blocks = blocks_of(rows);
  const std::int64_t grain =
      std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, channels * kBlockRows));
  at::parallel_for(0, samples * blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / blocks, first = i % blocks * kBlockRows;
      body(i, sample, sample * rows + first, sample * rows + std::min(rows, first + kBlockRows));
    }
  });
}

/// [groups, parts, n] -> [groups, n], adding the parts in order.
inline at::Tensor sum_parts(const at::Tensor& parts) {
  const std::int64_t groups = parts.size(0), count = parts.size(1), n = parts.size(2);
  at::Tensor total = at::zeros({groups, n}, parts.options());
  const float* from = parts.const_data_ptr<float>();
  float* to = total.mutable_data_ptr<float>();
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t p = 0; p < count; ++p, from += n) {
      for (std::int64_t i = 0; i < n; ++i) to[g * n + i] += from[i];
    }
  }
  return total;
}

}  // namespace fused
}  // namespace trestle::models::nn
