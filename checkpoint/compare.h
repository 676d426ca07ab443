// What is in a checkpoint's tensors, and how those of two checkpoints differ: what people ask when
// two runs should have come to the same. Tensors are read part by part, each block's digest
// checked, so that memory stays small whatever their size.
//
//   const TensorSummary s = summarise(folder, manifest, "model/x.weight");
//   for (const TensorDifference& d : compare(a, b).tensors) ...
//
// LOCAL. THREADS: any. ERRORS: as load.h.
#pragma once
#include "base/torch/tensor_summary.h"
#include "checkpoint/manifest.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trestle::checkpoint {

/// `name` is one of the manifest's tensors.
TensorSummary summarise(const std::filesystem::path& checkpoint, const Manifest& manifest,
                        const std::string& name);

/// A tensor that is not the same in both.
struct TensorDifference {
  enum class Kind : std::uint8_t { only_in_a, only_in_b, shape_or_dtype, elements };
  std::string name;
  Kind kind = Kind::elements;
  // The rest is of Kind::elements.
  std::uint64_t elements = 0;
  std::uint64_t unequal = 0;     ///< elements with other bits
  std::uint64_t not_finite = 0;  ///< unequal ones of which one side is not finite
  double max_abs = 0;            ///< |a - b| over elements that are finite in both
  double max_rel = 0;            ///< |a - b| / max(|a|, |b|) over the same
};

/// A value that is not the same in both; nothing where a side does not have it.
struct ValueDifference {
  std::string name;
  std::optional<Value> a, b;
};

struct Comparison {
  std::uint64_t equal_tensors = 0, equal_values = 0;
  std::vector<TensorDifference> tensors;  ///< by name
  std::vector<ValueDifference> values;    ///< by name
};

struct ComparedCheckpoint {
  const std::filesystem::path& folder;
  const Manifest& manifest;
};

/// How they were cut into files and pieces does not count.
Comparison compare(const ComparedCheckpoint& a, const ComparedCheckpoint& b);

}  // namespace trestle::checkpoint
