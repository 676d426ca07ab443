// Between torch's dtypes and those of files. LOCAL. THREADS: any.
#pragma once
#include "formats/element_type.h"

#include <c10/core/ScalarType.h>

#include <optional>

namespace trestle::models::weights {

at::ScalarType scalar_type_of(formats::ElementType type);

/// Nothing for dtypes that files of weights do not hold (complex128, quantised ones).
std::optional<formats::ElementType> element_type_of(at::ScalarType dtype);

}  // namespace trestle::models::weights
