// Whether all numbers of a tensor are finite, in one pass at memory speed. LOCAL. THREADS: any;
// uses torch's.
#pragma once
#include <ATen/core/TensorBody.h>

namespace trestle {

/// True for tensors of integers and empty ones.
bool all_finite(const at::Tensor& tensor);

}  // namespace trestle
