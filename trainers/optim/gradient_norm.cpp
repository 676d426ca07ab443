#include "trainers/optim/gradient_norm.h"

#include "base/error.h"
#include "dist/bucket_plan.h"
#include "models/nn/vector_math.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <mutex>

namespace trestle::trainers {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kGrainBlocks = 64;

/// Lane by lane, then the lanes in order: the compiler may vectorise it and may not reorder it.
/// (A square is rounded before it is added, on processors with FMA, too: see CMakeLists.txt.)
template <class Scalar>
double square_sum(const Scalar* values, std::int64_t count) {
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (std::int64_t lane = 0; i < count; ++i, ++lane) {
    const double value = values[i];
    lanes[lane] += value * value;
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

TRESTLE_CLONES double block_squares(const float* values, std::int64_t count) {
  return square_sum(values, count);
}
TRESTLE_CLONES double block_squares(const double* values, std::int64_t count) {
  return square_sum(values, count);
}

template <class Scalar>
void add_blocks(const Scalar* values, std::int64_t count, ExactSum& sum) {
  const std::int64_t blocks = (count + dist::kBlockElements - 1) / dist::kBlockElements;
  std::mutex mutex;
  at::parallel_for(0, blocks, kGrainBlocks, [&](std::int64_t begin, std::int64_t end) {
    ExactSum mine;
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t from = block * dist::kBlockElements;
      mine.add(block_squares(values + from, std::min(dist::kBlockElements, count - from)));
    }
    const std::lock_guard lock(mutex);
    sum.add(mine);
  });
}

}  // namespace

void add_squares(const at::Tensor& flat, ExactSum& sum) {
  TRESTLE_ASSERT(flat.is_contiguous() && flat.device().is_cpu(), "a gradient on {}",
                 flat.device().str());
  if (flat.numel() == 0) return;
  AT_DISPATCH_FLOATING_TYPES(flat.scalar_type(), "add_squares", [&] {
    add_blocks(flat.const_data_ptr<scalar_t>(), flat.numel(), sum);
  });
}

}  // namespace trestle::trainers
