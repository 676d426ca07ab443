#include "models/nn/dropout.h"

#include <ATen/ATen.h>

namespace trestle::models::nn {

at::Tensor dropout_keeps(const DropoutDraws& dropout, double probability, Purpose purpose,
                         at::IntArrayRef row_shape, const at::TensorOptions& options) {
  return dropout.draws.uniform(dropout.positions, purpose, row_shape, options) >= probability;
}

at::Tensor drop(const at::Tensor& x, double probability, Purpose purpose,
                const DropoutDraws* dropout) {
  if (dropout == nullptr || probability == 0) return x;
  const at::Tensor keeps =
      dropout_keeps(*dropout, probability, purpose, x.sizes().slice(1), x.options());
  return x * keeps.to(x.scalar_type()) / (1.0 - probability);
}

}  // namespace trestle::models::nn
