// Samples by id, and batches of them. LOCAL. THREADS: load() is called from loader threads, several
// at once, and must not change the data set.
#pragma once
#include "base/error.h"
#include "base/ids.h"
#include "data/sampler.h"

#include <ATen/core/TensorBody.h>

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::data {

/// Tensors of several samples under the names their data set gives them; row i belongs to
/// positions[i] and ids[i].
struct Batch {
  std::vector<Position> positions;
  std::vector<SampleId> ids;
  std::map<std::string, at::Tensor, std::less<>> tensors;

  const at::Tensor& tensor(std::string_view name) const {
    const auto found = tensors.find(name);
    TRESTLE_ASSERT(found != tensors.end(), "the batch has no tensor \"{}\"", name);
    return found->second;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;

  /// Samples of different kinds count separately in the loss ("all" where there is one kind).
  virtual std::string_view kind(SampleId) const { return "all"; }

  /// The samples as one batch (positions left empty). Throws Error(data).
  virtual Batch load(std::span<const SampleId> ids) const = 0;
};

}  // namespace trestle::data
