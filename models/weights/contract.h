// Which stored tensor goes into which parameter. The contract: every parameter is found, with its
// shape and with its kind of number (an integer that is read as a weight is a quantised model), and
// nothing is left over. All that breaks it is said at once.
// LOCAL. THREADS: any.
#pragma once
#include "models/nn/parameters.h"
#include "models/weights/source.h"

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::weights {

/// From a stored name to the model's; nothing: the tensor is not for this model.
using Rename = std::function<std::optional<std::string>(std::string_view)>;

/// Names lose this beginning ("module."); those without it stay as they are.
Rename strip_prefix(std::string prefix);

/// Only tensors whose names begin like this ("text_model.") are for the model; it is taken off.
Rename only_below(std::string prefix);

struct Match {
  struct Pair {
    const formats::StoredTensor* stored;
    at::Tensor parameter;
  };
  std::vector<Pair> pairs;   ///< in the order of the parameters
  std::size_t left_out = 0;  ///< stored tensors that Rename took out
};

/// Error(data) with a list of what is missing (and the nearest name), too many, or of another shape
/// or kind. `rename` may be empty.
Match match(const Source& source, std::span<const nn::NamedParameter> parameters,
            const Rename& rename = {});

}  // namespace trestle::models::weights
