// Squares of gradients, summed so that neither layout nor number of ranks changes a bit: fp64
// partials over blocks of dist::kBlockElements of each logical tensor, merged exactly.
//
//   ExactSum squares;
//   for (shards) add_squares(shard, squares);     // shards begin and end on block borders
//   world.all_reduce(squares.words(), ReduceOp::sum);
//   const double norm = std::sqrt(squares.value());
//
// LOCAL. THREADS: one caller at a time; uses torch's. CPU, fp32 and fp64.
#pragma once
#include "base/exact_sum.h"

#include <ATen/core/TensorBody.h>

namespace trestle::trainers {

/// `flat` is contiguous and starts on a block border of its tensor. inf and nan make the sum such.
void add_squares(const at::Tensor& flat, ExactSum& sum);

}  // namespace trestle::trainers
