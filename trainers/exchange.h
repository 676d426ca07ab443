// A task's only window on other ranks, open while its loss is computed. A task that looks through
// it says so (Task::exchanges()): then every rank has samples in every micro batch, and a failure
// of one rank's loss ends the run at once instead of at the end of the step.
//
//   const at::Tensor all_bd = context.exchange.gather_samples(features_bd);
//   const at::Tensor mean_d = context.exchange.global_mean(features_bd);
//   const at::Tensor theirs_bd = context.exchange.from_branch(1 - branch_, map_bd);
//
// COLLECTIVE: every rank makes the same calls in the same order (gather_samples and global_mean:
// every rank of the branch; from_branch: of all branches). Calls see one micro batch of each rank.
// What a loss makes of them is therefore the same for any number of ranks only where a step has one
// micro batch a rank. Not inside a checkpointed segment, which runs twice: an Error(usage) on every
// rank.
// On one rank all are the identity, or a mean. THREADS: one, and backward's.
#pragma once
#include "dist/collectives.h"
#include "dist/mesh.h"

#include <ATen/core/TensorBody.h>

#include <memory>
#include <string_view>

namespace trestle::trainers {

class Exchange {
 public:
  virtual ~Exchange() = default;

  /// [n, ...] of each rank of this branch -> [N, ...]: all rows in the order of ranks, which is
  /// that of positions. n may differ. Differentiable: backward sums what the ranks' losses make of
  /// a row and gives it to the rank that the row came from, so the gradients are those of the sum
  /// of all ranks' losses.
  virtual at::Tensor gather_samples(const at::Tensor& rows) = 0;
  /// [n, ...] of each rank of this branch -> [...]: the mean over all their rows. Detached.
  virtual at::Tensor global_mean(const at::Tensor& rows) = 0;
  /// What the rank at this place of branch `branch` passed in the same call, which is about the
  /// same samples. Each branch may ask for another one; shapes and dtypes may differ between them.
  /// Detached.
  virtual at::Tensor from_branch(int branch, const at::Tensor& own) = 0;

  /// For the step, around each loss. tie() gives the loss a graph through which backward comes to
  /// every gather_samples() since begin(), in the same order on all ranks, whatever this rank's
  /// loss made of them. `loss` may be undefined, and so may the result.
  virtual void begin() {}
  virtual at::Tensor tie(const at::Tensor& loss) { return loss; }
};

/// For one rank, or for steps of tasks that do not exchange.
Exchange& lone_exchange();

/// COLLECTIVE. Between the ranks of the mesh, on channels of its own named "exchange".
std::unique_ptr<Exchange> make_exchange(const dist::Mesh& mesh);

/// For a task that does not say that it exchanges: an error that tells its author.
std::unique_ptr<Exchange> refuse_exchange(std::string_view task);

}  // namespace trestle::trainers
