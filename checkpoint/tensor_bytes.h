// Between torch's tensors and the bytes and element types of files. LOCAL. THREADS: any.
#pragma once
#include "formats/element_type.h"

#include <ATen/core/TensorBody.h>

#include <cstddef>
#include <optional>
#include <span>

namespace trestle::checkpoint {

/// Nothing for dtypes that checkpoints do not hold.
std::optional<formats::ElementType> element_type_of(at::ScalarType dtype);

/// The dtype of elements that checkpoints hold.
at::ScalarType scalar_type_of(formats::ElementType type);

/// The memory of a contiguous tensor on the CPU.
std::span<std::byte> bytes_of(const at::Tensor& tensor);

}  // namespace trestle::checkpoint
