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
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trestle::trainers {

struct ShardedGroupOptions {
  dist::ShardMode shard = dist::ShardMode::optimizer;
  /// Names of the moving averages that are kept, the sections of a checkpoint that hold them.
  std::vector<std::string> averages = {};
};

class ShardedGroup {
 public:
  /// The masters and averages start as copies of the parameters.
  /// `optimizer` and `collectives` outlive the group.
  ShardedGroup(std::unique_ptr<dist::FlatGroup> flat, const Optimizer& optimizer,
               dist::Collectives& collectives, const ShardedGroupOptions& options);

  dist::FlatGroup& flat() { return *flat_; }
  const dist::FlatGroup& flat() const { return *flat_; }

  using Project = std::function<void(const std::string& name, at::Tensor& master)>;
  /// One pass over what this rank holds of a bucket: optimizer, averages (a decay for each), the
  /// parameters' copy. `project` changes whole masters, before they are averaged; it wants
  /// shard = none.
  void step(std::size_t bucket, const at::Tensor& gradient, const StepScalars& scalars,
            std::span<const double> decays, const Project& project = {});

  /// The part of it that this rank owns in every mode, without averages; `gradient` is of that
  /// part. For Optimizer::contribute().
  Shard own_shard(std::size_t bucket, const at::Tensor& gradient) const;

  /// COLLECTIVE. Everyone's steps of this bucket come together; nothing to do with shard = none.
  void start_gather(std::size_t bucket);
  /// The parameters are whole again. COLLECTIVE.
  void wait();
  /// LOCAL. Those are that have an element in this span of the flat buffer. Not after
  /// show_masters(), unless wait() came in between.
  void wait_for(const dist::ElementSpan& elements);
  /// LOCAL. Some gather is not waited for yet.
  bool is_gathering() const { return !gathers_.empty(); }

  /// When an update goes over each bucket (checkpoint::StateEntry::stage); at first nobody says.
  void set_stages(std::vector<checkpoint::Stage> stages) { stages_ = std::move(stages); }
  checkpoint::Stage stage(std::size_t bucket) const { return stages_[bucket]; }

  /// Names: model/NAME the masters, optim/NAME/PLANE, and of each average its name, "ema/NAME".
  void state(checkpoint::Scope& root);
  /// COLLECTIVE. After state() has loaded: the parameters follow the masters.
  void publish();

  /// COLLECTIVE. The parameters become the average of this name; they stay where there is none.
  void show_average(std::string_view name);
  /// LOCAL. The masters are in their place again; the parameters follow at the next wait().
  void show_masters();

  /// This rank's masters, by bucket: for comparisons and hashes.
  at::Tensor master(std::size_t bucket) const;
  /// In the order of their names.
  std::vector<at::Tensor> averages(std::size_t bucket) const;
  /// What this rank holds of a bucket, as elements of the flat buffer.
  dist::ElementSpan held(std::size_t bucket) const;

 private:
  using Plane = at::Tensor;
  at::Tensor piece(const Plane& plane, std::size_t bucket) const;
  Plane make_plane() const;
  bool masters_are_values() const { return flat_->dtype() == flat_->sum_dtype(); }
  void plane_state(const checkpoint::Scope& scope, std::string_view suffix,
                   const std::function<at::Tensor(std::size_t)>& piece_of);
  void gather_all();
  void join_gathers();

  std::unique_ptr<dist::FlatGroup> flat_;
  const Optimizer& optimizer_;
  dist::Collectives& collectives_;
  dist::ShardMode mode_;
  Plane masters_;  ///< undefined where the parameters have the masters' dtype: then they are these
  std::vector<Plane> planes_, averages_;
  std::vector<std::string> average_names_;
  std::vector<checkpoint::Stage> stages_;      ///< by bucket
  std::map<std::size_t, dist::Work> gathers_;  ///< by bucket, those that are not waited for yet
  bool stale_ = false;                         ///< parameters of other ranks' shards
  std::vector<at::Tensor> aside_;              ///< masters, while an average stands in their place
};

}  // namespace trestle::trainers
