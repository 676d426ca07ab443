#include "dist/cuda/combine_rows.h"
#include "dist/cuda/cuda_check.h"

#include <algorithm>

namespace trestle::dist {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 1024;

struct Bfloat16Bits {
  std::uint16_t bits;
};

template <class T>
__device__ T widened(T value) {
  return value;
}

__device__ float widened(Bfloat16Bits value) {  // the upper half of a float
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

template <class T>
__device__ T combined(T a, T b, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return a + b;
    case ReduceOp::max:
      return b > a || b != b ? b : a;
    case ReduceOp::min:
      return b < a || b != b ? b : a;
  }
  return a;
}

// Each element is read and then written by one thread, so that `out` may be a row.
template <class T, class In>
__global__ void combine(const In* gathered, const In* own, int rank, int size, std::int64_t count,
                        ReduceOp op, T* out) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const auto value = [&](int r) {
      return widened(r == rank ? own[i] : gathered[std::int64_t{r} * count + i]);
    };
    T result = value(0);
    for (int r = 1; r < size; ++r) result = combined<T>(result, value(r), op);
    out[i] = result;
  }
}

template <class T, class In>
void launch(const Rows& rows, ReduceOp op, void* out, cudaStream_t stream) {
  const std::int64_t wanted = (rows.count + kThreads - 1) / kThreads;
  const auto blocks = static_cast<unsigned>(std::min(wanted, kMostBlocks));
  combine<T, In><<<blocks, kThreads, 0, stream>>>(static_cast<const In*>(rows.gathered),
                                                  static_cast<const In*>(rows.own), rows.rank,
                                                  rows.size, rows.count, op, static_cast<T*>(out));
  TRESTLE_CUDA(cudaGetLastError());
}

}  // namespace

void combine_rows(const Rows& rows, Arithmetic arithmetic, ReduceOp op, void* out,
                  cudaStream_t stream) {
  if (rows.count == 0) return;
  switch (arithmetic) {
    case Arithmetic::float32:
      return launch<float, float>(rows, op, out, stream);
    case Arithmetic::float64:
      return launch<double, double>(rows, op, out, stream);
    case Arithmetic::int64:
      return launch<std::int64_t, std::int64_t>(rows, op, out, stream);
    case Arithmetic::bfloat16_to_float32:
      return launch<float, Bfloat16Bits>(rows, op, out, stream);
  }
}

}  // namespace trestle::dist
