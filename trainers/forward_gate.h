// Lets a forward begin while other ranks' shards of the parameters still arrive: before an
// operation reads a parameter, the gather of its bucket is waited for, and no other.
//
//   ForwardGate gate(groups);
//   loss = forward(...);
//   gate.open();                 // before backward, which reads what it saved
//
// LOCAL, but where a group shows an average: then its masters are gathered, COLLECTIVE. THREADS:
// one, the forward's. ERRORS: what a gather failed with is thrown by open(); the forward has gone
// on with stale values by then.
#pragma once
#include "base/torch/operand_watch.h"
#include "trainers/sharded_group.h"

#include <deque>
#include <exception>
#include <optional>
#include <unordered_map>

namespace trestle::trainers {

class ForwardGate {
 public:
  /// The groups outlive it.
  explicit ForwardGate(std::deque<ShardedGroup>& groups);

  /// All parameters are whole. A second call does nothing.
  void open();

 private:
  void wait_for(const at::Tensor& operand);

  std::deque<ShardedGroup>& groups_;
  std::unordered_map<const c10::StorageImpl*, ShardedGroup*> by_storage_;  ///< those that gather
  std::exception_ptr failure_;
  std::optional<OperandWatch> watch_;
};

}  // namespace trestle::trainers
