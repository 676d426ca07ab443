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
/// own operations, so they (and every other device) keep to ATen. On the meta device fused layers
/// allocate what they do on the CPU and compute nothing: that is how memory is planned.
inline bool runs_fused(const at::Tensor& x) {
  return (x.device().is_cpu() || x.device().is_meta()) && x.scalar_type() == at::kFloat;
}

namespace fused {

/// Adds one to fused_calls() (activations.h).
void count_call();

/// A tensor's floats; null on the meta device, where nobody reads or writes them.
inline const float* values(const at::Tensor& x) {
  return x.is_meta() ? nullptr : x.const_data_ptr<float>();
}
inline float* mutable_values(at::Tensor& x) {
  return x.is_meta() ? nullptr : x.mutable_data_ptr<float>();
}

constexpr std::int64_t kGrain = 32768;   // floats a thread should at least have
constexpr std::int64_t kBlockRows = 64;  // rows whose sums are taken together

inline std::int64_t blocks_of(std::int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

/// Calls body(block, sample, first_row, end_row) for each block of rows of each sample; rows count
/// through the whole batch, blocks too. `x` is one of the tensors worked on: on the meta device
/// there is nothing to do.
template <class Body>
void for_row_blocks(const at::Tensor& x, std::int64_t samples, std::int64_t rows,
                    std::int64_t channels, const Body& body) {
  if (x.is_meta()) return;
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
  if (parts.is_meta()) return total;
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
