// What people ask of a tensor's numbers, from parts of it: how large they are, and what is not
// finite.
//
//   TensorSummariser summariser;
//   for (...) summariser.add(part);
//   const TensorSummary s = summariser.summary();
//
// LOCAL. THREADS: one.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace trestle {

/// Numbers are of the finite elements, as float64.
struct TensorSummary {
  std::uint64_t elements = 0, zeros = 0, nans = 0, infinities = 0;
  double min = 0, max = 0, mean = 0;  ///< 0 where no element is finite
  std::vector<double> first = {};     ///< the first few elements as they are
};

class TensorSummariser {
 public:
  explicit TensorSummariser(std::size_t first_shown = 8) : first_shown_(first_shown) {}

  /// The next elements, of any real dtype and shape.
  void add(const at::Tensor& values);
  TensorSummary summary() const;

 private:
  std::size_t first_shown_;
  TensorSummary so_far_;
  std::uint64_t finite_ = 0;
  double sum_ = 0;
};

}  // namespace trestle
