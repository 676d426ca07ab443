// The trained state of one parameter group, as far as this rank holds it: a flat buffer with the
// whole parameters, and of each bucket's shard the fp32 masters, the optimizer's planes and the
// moving averages. With shard = none a rank holds all of it.
//
//   ShardedGroup group(std::move(flat), {.shard = ShardMode::optimizer, ...}, collectives);
//   group.step(bucket, gradients, scalars);        // on the shard
//   group.start_gather(bucket);                    // everyone's shards of the parameters
//   group.wait();                                  // before a forward
//
// LOCAL, but for what gathers. THREADS: one. STREAM: the current one.
#pragma once
#include "checkpoint/state_tree.h"
#include "dist/collectives.h"
#include "dist/flat_group.h"
#include "dist/gradient_reducer.h"
#include "trainers/optim/shard_optimizer.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace trestle::trainers {

struct ShardedGroupOptions {
  dist::ShardMode shard = dist::ShardMode::optimizer;
  std::size_t averages = 1;  ///< moving averages that are kept
};

class ShardedGroup {
 public:
  /// The masters and averages start as copies of the parameters.
  ShardedGroup(std::unique_ptr<dist::FlatGroup> flat, std::unique_ptr<const Optimizer> optimizer,
               dist::Collectives& collectives, const ShardedGroupOptions& options);

  dist::FlatGroup& flat() { return *flat_; }
  const dist::FlatGroup& flat() const { return *flat_; }

  using Project = std::function<void(const std::string& name, at::Tensor& master)>;
  /// One pass over what this rank holds of a bucket: optimizer, averages (a decay for each), the
  /// parameters' copy. `project` changes whole masters, before they are averaged; it wants
  /// shard = none.
  void step(std::size_t bucket, const at::Tensor& gradient, const StepScalars& scalars,
            std::span<const double> decays, const Project& project = {});

  /// COLLECTIVE. Everyone's steps of this bucket come together; nothing to do with shard = none.
  void start_gather(std::size_t bucket);
  /// The parameters are whole again. COLLECTIVE.
  void wait();

  /// Names: model/NAME the masters, optim/NAME/PLANE, ema/NAME (further averages: ema/K/NAME, K
  /// from 1).
  void state(checkpoint::Scope& root);
  /// COLLECTIVE. After state() has loaded: the parameters follow the masters.
  void publish();

  /// COLLECTIVE. The parameters become average k.
  void show_average(std::size_t k);
  /// LOCAL. The masters are in their place again; the parameters follow at the next wait().
  void show_masters();

  /// This rank's masters, by bucket: for comparisons and hashes.
  at::Tensor master(std::size_t bucket) const;
  /// Of the first average; undefined where none is kept.
  at::Tensor average(std::size_t bucket) const;
  /// What this rank holds of a bucket, as elements of the flat buffer.
  dist::ElementSpan held(std::size_t bucket) const;

 private:
  using Plane = at::Tensor;
  at::Tensor piece(const Plane& plane, std::size_t bucket) const;
  Plane make_plane() const;
  bool masters_are_values() const { return flat_->dtype() == flat_->sum_dtype(); }
  void plane_state(checkpoint::Scope& scope, std::string_view suffix,
                   const std::function<at::Tensor(std::size_t)>& piece_of);
  void gather_all();
  void join_gathers();

  std::unique_ptr<dist::FlatGroup> flat_;
  std::unique_ptr<const Optimizer> optimizer_;
  dist::Collectives& collectives_;
  dist::ShardMode mode_;
  Plane masters_;  ///< undefined where the parameters have the masters' dtype: then they are these
  std::vector<Plane> planes_, averages_;
  std::vector<dist::Work> gathers_;
  bool stale_ = false;             ///< parameters of other ranks' shards
  std::vector<at::Tensor> aside_;  ///< masters, while an average stands in their place
};

}  // namespace trestle::trainers
