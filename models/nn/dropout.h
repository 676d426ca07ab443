// Dropout whose masks belong to samples: which rank works on a sample, and with how many others,
// changes nothing, and a segment that backward computes anew draws the same mask.
//
// LOCAL. THREADS: any. STREAM: the current one.
#pragma once
#include "base/ids.h"
#include "base/torch/draws.h"

#include <ATen/core/TensorBody.h>

#include <vector>

namespace trestle::models::nn {

/// Which samples the rows of a batch are.
struct DropoutDraws {
  Draws draws;
  std::vector<Position> positions;  ///< one a batch row
};

/// True where an element stays; [positions, row_shape...]. `options` gives the device and the dtype
/// that is drawn in.
at::Tensor dropout_keeps(const DropoutDraws& dropout, double probability, Purpose purpose,
                         at::IntArrayRef row_shape, const at::TensorOptions& options);

/// x with elements zeroed and the others divided by 1 - probability; x itself where `dropout` is
/// null (evaluation) or the probability is 0.
at::Tensor drop(const at::Tensor& x, double probability, Purpose purpose,
                const DropoutDraws* dropout);

}  // namespace trestle::models::nn
