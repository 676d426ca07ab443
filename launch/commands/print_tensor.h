// One tensor as `inspect --tensor` shows it, whatever it lies in. Heavy to include; for .cpp files.
// LOCAL.
#pragma once
#include "base/torch/tensor_summary.h"
#include "formats/element_type.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::launch {

struct ShownTensor {
  std::string name;
  const std::vector<std::int64_t>& shape;
  formats::ElementType dtype;
  TensorSummary summary;
};

/// JSON has no infinities and no NaN; they become texts.
nlohmann::ordered_json json_of_number(double number);

/// Everything but where it lies, which the caller adds.
nlohmann::ordered_json json_of_tensor(const ShownTensor& tensor);
void print(const ShownTensor& tensor);

}  // namespace trestle::launch
