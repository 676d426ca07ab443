// What is saved: logical tensors (name, shape, the elements held here) and single numbers and
// texts. Parts of the training state describe themselves to a Scope, in one function for both
// directions:
//
//   void Adam::state(checkpoint::Scope& scope) {
//     scope.number("step", step_);
//     scope.tensor("exp_avg", exp_avg_);
//     checkpoint::Scope moments = scope.child("second");   // names become "second/..."
//     moments.tensor("exp_avg_sq", exp_avg_sq_);
//   }
//   StateTree tree = collect([&](Scope& scope) { adam.state(scope); });
//
// LOCAL. THREADS: a Scope lives on one thread, inside the visit. Nothing is copied: a tree shares
// the tensors' memory, so they must not change before what was asked of the tree is done.
#pragma once
#include "checkpoint/manifest.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::checkpoint {

/// When the training next changes a tensor in place, counted in the order in which an update goes
/// over its buckets; kUnstaged: nobody says when.
using Stage = int;
inline constexpr Stage kUnstaged = -1;

/// The elements [begin, end) of a flattened logical tensor.
struct StateEntry {
  std::string name;
  at::Tensor tensor;                ///< end - begin elements, any shape and strides
  std::vector<std::int64_t> shape;  ///< of the whole logical tensor
  std::uint64_t begin = 0, end = 0;
  bool replicated = true;  ///< every rank holds the whole tensor, so ranks share the writing
  Stage stage = kUnstaged;
};

struct StateTree {
  std::vector<StateEntry> tensors;  ///< in the order of the visit
  std::map<std::string, Value> values;
};

/// Names are printable ASCII without spaces, in non-empty parts between '/'; a full name is used
/// once (by pieces: in ascending order). Numbers and texts are equal on all ranks that name them:
/// those of the lowest are saved.
class Scope {
 public:
  /// While loading, numbers and texts have the stored value when the call returns; tensors are
  /// filled in place after the whole visit.
  bool loading() const;

  /// A tensor that every rank holds (SaveRequest::holders). Loading demands the same shape and
  /// dtype.
  void tensor(std::string_view name, at::Tensor& tensor);
  /// The elements from `begin` on of a flattened tensor of this shape; other ranks hold the others.
  void piece(std::string_view name, at::Tensor& local, std::vector<std::int64_t> shape,
             std::uint64_t begin);
  void number(std::string_view name, std::int64_t& value);
  void number(std::string_view name, double& value);
  /// One that older checkpoints do not have: loading these leaves it as it is.
  void optional_number(std::string_view name, std::int64_t& value);
  void text(std::string_view name, std::string& value);

  Scope child(std::string_view prefix) const;
  /// The same place; tensors named there change at this stage of an update.
  Scope at_stage(Stage stage) const;
  /// Names below `prefix` are for other ranks to name: nothing is missing here without them.
  void elsewhere(std::string_view prefix);

 private:
  friend class Visit;
  Scope(class Visit& visit, std::string prefix, Stage stage)
      : visit_(&visit), prefix_(std::move(prefix)), stage_(stage) {}
  template <class T>
  void value(std::string_view name, T& value);
  std::string full_name(std::string_view name) const;

  Visit* visit_;
  std::string prefix_;
  Stage stage_;
};

using Visitor = std::function<void(Scope&)>;

/// One pass of a visitor over the state: what it named, and what differs from stored values.
class Visit {
 public:
  /// `stored` null: to save.
  Visit(const Visitor& visitor, const std::map<std::string, Value>* stored);

  StateTree tree;                        ///< values as they are after the visit
  std::vector<std::string> elsewhere;    ///< prefixes of names, each with its '/'
  std::vector<std::string> differences;  ///< one sentence for each value without its stored equal

 private:
  friend class Scope;
  void add(StateEntry entry);

  const std::map<std::string, Value>* stored_;
  std::map<std::string, std::uint64_t> ends_;  ///< of the last piece seen of each tensor
};

/// The tree that a save takes.
StateTree collect(const Visitor& visitor);

}  // namespace trestle::checkpoint
