// Parameters that lie in one flat buffer: leaves of one dtype, in the places that a BucketPlan
// gives them. Values of a bucket are one contiguous piece, so it travels as it is.
//
//   FlatGroup group("lora", {{"proj.weight", weight}, ...}, {.ranks = world.size()});
//   group.values(bucket)     // a piece of the flat buffer; the leaves are views of it
//
// Leaves keep their identity, autograd history and version counters (set_data): whoever holds one
// sees the flat buffer's values. Writing to the buffer between a forward and its backward is seen
// by nobody and gives wrong gradients: don't (the gradient reducer asserts it).
// A leaf's gradient arrives in sum_dtype(): fp32 for bf16 and fp16 leaves, so that micro batches
// are not added up in half precision. LOCAL. THREADS: one.
#pragma once
#include "dist/bucket_plan.h"

#include <ATen/core/TensorBody.h>

#include <string>
#include <vector>

namespace trestle::dist {

/// A parameter and the name people know it by.
struct NamedLeaf {
  std::string name;
  at::Tensor tensor;
};

class FlatGroup {
 public:
  /// `options.element_bytes` is set from the dtype that is summed. The leaves, in export order, are
  /// on one device, of one floating dtype, and not views of one another.
  FlatGroup(std::string name, std::vector<NamedLeaf> leaves, BucketOptions options);

  const std::string& name() const { return name_; }
  const std::vector<NamedLeaf>& leaves() const { return leaves_; }
  const BucketPlan& plan() const { return plan_; }
  at::ScalarType dtype() const { return values_.scalar_type(); }
  at::ScalarType sum_dtype() const { return sum_dtype_; }
  /// The whole buffer, and a bucket's piece of it.
  const at::Tensor& values() const { return values_; }
  at::Tensor values(const Bucket& bucket) const {
    return values_.slice(0, bucket.begin, bucket.end);
  }

 private:
  std::string name_;
  std::vector<NamedLeaf> leaves_;
  at::ScalarType sum_dtype_;
  BucketPlan plan_;
  at::Tensor values_;
};

/// What gradients of such a parameter are summed in: fp64 for fp64, fp32 otherwise.
at::ScalarType sum_dtype_of(at::ScalarType dtype);

}  // namespace trestle::dist
