// Samples by id, and batches of them. A sample that cannot be used is said to be bad, and the
// Loader puts another in its place; whoever loads samples that must be these gets the error. LOCAL.
// THREADS: load() is called from loader threads, several at once, and must not change the data set.
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

/// A sample that is missing, damaged or of the wrong size. what() is the whole sentence for the
/// user, with the sample's place in its list.
class BadSample : public Error {
 public:
  BadSample(SampleId id, const std::string& message) : Error(ExitCode::data, message), id_(id) {}
  SampleId id() const { return id_; }

 private:
  SampleId id_;
};

/// A bad sample whose position another sample has taken.
struct Replacement {
  Position position;
  SampleId bad;
  std::string reason;  ///< the BadSample's what()
};

/// Tensors of several samples under the names their data set gives them; row i belongs to
/// positions[i] and ids[i].
struct Batch {
  std::vector<Position> positions;
  std::vector<SampleId> ids;
  std::map<std::string, at::Tensor, std::less<>> tensors;
  /// A position is here as often as samples were bad until one was good.
  std::vector<Replacement> replaced;

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

  /// The samples as one batch (positions left empty). Throws BadSample for the first bad one.
  virtual Batch load(std::span<const SampleId> ids) const = 0;
};

/// The samples without the bad ones, for sums that a few do not decide. batch.ids says which were
/// good; none: size 0, no tensors.
Batch load_good(const Dataset& dataset, std::vector<SampleId> ids);

}  // namespace trestle::data
