#include "launch/commands/print_tensor.h"

#include "formats/stored_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

namespace trestle::launch {

using nlohmann::ordered_json;

ordered_json json_of_number(double number) {
  if (std::isfinite(number)) return number;
  return fmt::format("{}", number);
}

ordered_json json_of_tensor(const ShownTensor& tensor) {
  const TensorSummary& summary = tensor.summary;
  ordered_json object = {{"tensor", tensor.name},
                         {"shape", tensor.shape},
                         {"dtype", formats::element_name(tensor.dtype)},
                         {"elements", summary.elements},
                         {"min", summary.min},
                         {"max", summary.max},
                         {"mean", summary.mean},
                         {"zeros", summary.zeros},
                         {"nans", summary.nans},
                         {"infinities", summary.infinities},
                         {"first", ordered_json::array()}};
  for (const double value : summary.first) object["first"].push_back(json_of_number(value));
  return object;
}

void print(const ShownTensor& tensor) {
  const TensorSummary& summary = tensor.summary;
  fmt::print("{}\n  shape [{}] {}\n", formats::plain_name(tensor.name),
             fmt::join(tensor.shape, ", "), formats::element_name(tensor.dtype));
  fmt::print("  min {:.6g}  max {:.6g}  mean {:.6g}  zeros {}  NaN {}  infinite {}, of {}\n",
             summary.min, summary.max, summary.mean, summary.zeros, summary.nans,
             summary.infinities, summary.elements);
  if (summary.first.empty()) return;
  fmt::print("  first values {:.6g}{}\n", fmt::join(summary.first, " "),
             summary.elements > summary.first.size() ? " ..." : "");
}

}  // namespace trestle::launch
