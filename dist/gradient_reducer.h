// Sums gradients over ranks while backward still runs: a hook on each parameter takes its gradient
// into the flat buffer of its bucket, and a bucket whose gradients are all there is
// reduce-scattered at once. Buckets start strictly in order of their index, so every rank issues
// the same operations whatever order its gradients come in.
//
//   GradientReducer reducer({{&group}}, collectives, {.shard = ShardMode::optimizer});
//   reducer.begin_step({.micro_steps = 3});
//   for (micro batches) { reducer.begin_backward(); loss.backward(); reducer.end_backward(); }
//   reducer.finish();                            // also after an error, so that no rank waits
//   reducer.gradients(part)                      // of each bucket: this rank's shard, or the whole
//
// HOW OFTEN a parameter's gradient arrives in one backward (twice, where two checkpointed segments
// use it) is learned in the first step and in the first after a change of the active groups, which
// reduces after backward; ranks take the largest of their counts. A gradient that is missing later
// only delays its bucket to the end. One that comes after its bucket left (has_late()) is added by
// a reduction of its own, and the counts are learned again. What no loss reaches has the gradient
// zero.
//
// SHARDS. none: every rank has all sums. optimizer: a rank has the sums of its shard of each
// bucket; micro batches are added up before the one reduction of a step. gradients: the same
// shards, but each micro batch is reduced, through a small pool of buckets, so that no rank holds
// all gradients; the counts are then learned in a backward pass of its own (must_count()), which
// keeps nothing.
//
// COLLECTIVE: begin_step and finish, and what backward starts in between. THREADS: one for calls;
// hooks may come from backward's threads. STREAM: the current one (CPU so far). While no step is
// begun, gradients go to .grad as they always do; during a step .grad stays undefined.
#pragma once
#include "dist/collectives.h"
#include "dist/flat_group.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace trestle::dist {

enum class ShardMode { none, optimizer, gradients };
/// Buckets under way at once in mode gradients: backward waits for the oldest before it fills
/// another.
inline constexpr std::size_t kPoolDepth = 4;
/// What gradients travel in. bf16: every contribution is rounded, the sum is not.
enum class WireDtype { sum, bf16 };

struct ReducerOptions {
  ShardMode shard = ShardMode::optimizer;
  WireDtype wire = WireDtype::sum;
};

/// One of the groups whose gradients are reduced together.
struct ReducedGroup {
  FlatGroup* flat = nullptr;
  bool whole = false;  ///< every rank gets all of its sums, whatever the mode
};

/// A bucket of one of the groups.
struct Part {
  std::size_t group = 0, bucket = 0;
};

class GradientReducer {
 public:
  /// Groups and collectives outlive the reducer.
  GradientReducer(const std::vector<ReducedGroup>& groups, Collectives& collectives,
                  const ReducerOptions& options);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  struct StepPlan {
    std::int64_t micro_steps = 1;
    std::vector<bool> active = {};  ///< by group; empty: all. Others are neither summed nor changed
  };
  void begin_step(const StepPlan& plan);
  /// Around each micro batch's backward. A micro batch that this rank has no samples of needs
  /// neither.
  void begin_backward();
  void end_backward();
  /// Whether a backward pass has to be spent on counting, between begin_step and the first micro
  /// batch; the same on every rank. end_counting is COLLECTIVE, and is called by ranks without
  /// samples, too.
  bool must_count() const;
  void begin_counting();
  void end_counting();
  /// Starts what is left, of all micro steps, and waits for everything.
  void finish();
  /// LOCAL. This rank's gradients came too late for their buckets. If any rank's did, all call
  /// add_late(), COLLECTIVE, which completes the sums and returns the names.
  bool has_late() const;
  std::vector<std::string> add_late();
  /// LOCAL. A parameter that a living graph still uses, so that its values must not change; null
  /// where there is none.
  const std::string* leaf_in_use() const;

  /// In the order of reduction: what backward reaches last comes last. Without inactive groups.
  const std::vector<Part>& parts() const { return parts_; }
  /// After finish(), until the next begin_step: the sums in this rank's hands, of sum_dtype. Mode
  /// none and whole groups: the whole bucket; otherwise its shard.
  at::Tensor gradients(const Part& part) const;
  /// This rank's shard of them in every mode.
  at::Tensor own_gradients(const Part& part) const;
  /// The first parameter, as backward reaches them, whose gradient on this rank was not finite
  /// before it was summed in this step; empty where all were. Alone, a rank does not look: the sums
  /// tell.
  const std::string& not_finite() const;
  /// By name: those that got no gradient on any rank when the counts were learned last.
  const std::vector<std::string>& unused() const;

 private:
  class Impl;
  std::vector<Part> parts_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trestle::dist
