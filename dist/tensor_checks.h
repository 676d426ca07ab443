// What every backend of Collectives demands of the tensors it is given. Internal to dist/.
//
// LOCAL. A tensor of the wrong device or dtype is an Error(environment), what only a bug can cause
// an assertion.
#pragma once
#include "dist/collectives.h"
#include "dist/operations.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>

namespace trestle::dist {

inline std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

/// Contiguous and there.
void require_on(at::Device device, const char* operation, const at::Tensor& tensor);

/// whole.numel() == size * part.numel(), and the same dtype unless that may differ.
void require_ratio(const char* operation, int size, const at::Tensor& whole, const at::Tensor& part,
                   bool may_differ);

/// The two share no byte, or `part` is exactly this rank's slice of `whole`.
void require_own_or_apart(const char* operation, const Communicator& ranks, const at::Tensor& part,
                          const at::Tensor& whole);

void require_other(const char* operation, const Communicator& ranks, int peer);

/// Throws for what reductions do not take.
Arithmetic arithmetic_of(const char* operation, at::ScalarType in, at::ScalarType out);

}  // namespace trestle::dist
