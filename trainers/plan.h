// What a recipe will need on N ranks, before it runs anywhere: memory of a rank, bytes on the wire,
// size of a checkpoint, and, from a calibration, the time of a step. Arithmetic over the same
// bucket plans that the engine makes, and a walk through the loss on the meta device
// (trainers/activation_memory.h); no weights are made.
//
//   const auto task = check_recipe(recipe, world);               // on the meta device
//   const Plan plan = make_plan(recipe, *task, hosts_of_ranks(world, hosts));
//   plan.memory.total_bytes();
//   predict(plan, {.forward_s = ..., ...}, calibration).step_s();
//
// LOCAL, on any machine. THREADS: one.
#pragma once
#include "configs/recipe.h"
#include "dist/topology.h"
#include "formats/calibration.h"
#include "trainers/activation_memory.h"
#include "trainers/task.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::trainers {

/// Bytes of tensors on the rank that has most. What MPI, kernels' scratch memory, files and the
/// program itself take comes on top, and so does what pictures and jobs need between steps.
struct MemoryPlan {
  std::int64_t parameters = 0;  ///< the whole model, as it computes
  std::int64_t frozen = 0;      ///< weights that are not trained
  std::int64_t masters = 0;     ///< where parameters are of lower precision than sums
  std::int64_t gradients = 0;   ///< sums: all of them, or this rank's shard
  std::int64_t optimizer = 0;   ///< its planes
  std::int64_t ema = 0;         ///< averages
  std::int64_t buckets = 0;     ///< on their way: lent buffers (as many as gradients need that come
                                ///< in the order of their buckets) and copies in the wire's dtype
  std::int64_t data = 0;        ///< what the data set keeps, and micro batches read ahead
  std::int64_t activations = 0;  ///< ActivationMemory::peak_bytes

  std::int64_t total_bytes() const {
    return parameters + frozen + masters + gradients + optimizer + ema + buckets + data +
           activations;
  }
};

/// A collective that each step makes, in order.
struct Transfer {
  enum class When { reduction, gather } when;
  std::string_view operation;  ///< as a calibration names it
  std::int64_t bytes = 0;      ///< of the whole tensor
  std::int64_t times = 1;      ///< in a step
};

struct Plan {
  dist::Topology ranks{{""}};                ///< that share the samples: of the first branch
  bool two_level = false;                    ///< dist/two_level.h
  std::int64_t tensors = 0, parameters = 0;  ///< trained
  std::int64_t micro_steps = 1;
  std::int64_t samples = 0;        ///< of the rank that has most, a step
  std::int64_t held_elements = 0;  ///< that a rank's optimizer steps
  bool reduces_every_micro_step = false;
  MemoryPlan memory = {};
  ActivationMemory activation = {};      ///< and why it is not known
  std::vector<Transfer> transfers = {};  ///< of a step in which all objectives are due; the small
                                         ///< collective of each objective is left out
  std::vector<std::int64_t> checkpoint_bytes = {};  ///< of tensors, by rank

  int world() const { return ranks.ranks(); }
  /// A step, by each rank: of n ranks (n-1)/n of every tensor, and of H hosts x L ranks in two
  /// levels (L-1)/L + (H-1)/n; twice that for all_reduce.
  std::int64_t sent_bytes(Transfer::When when) const;
  /// A step, by the host that sends most to the others: of the n ranks l(n-l)/n where it has l, in
  /// two levels (H-1)/H.
  std::int64_t sent_between_hosts_bytes(Transfer::When when) const;
  std::int64_t checkpoint_total_bytes() const;
};

/// Host names by rank: `ranks` one after the other on `hosts`, as evenly as can be.
std::vector<std::string> hosts_of_ranks(int ranks, int hosts = 1);

/// `task` on the meta device; `hosts` of all ranks, for which `recipe` has been checked. Throws
/// Error(environment) where the recipe demands two levels that these hosts do not have.
Plan make_plan(const configs::Recipe& recipe, Task& task, const std::vector<std::string>& hosts);

/// A step's own work on one rank, without communication.
struct ComputeTimes {
  double forward_s = 0, backward_s = 0, optimizer_s = 0;
};

/// The model: a reduction hides behind the backward pass that makes its gradients, a gather behind
/// the forward pass that waits for it, and nothing else hides anything. With one micro step:
///
///   step = max(backward, reduce) + optimizer + max(forward, gather)
///
/// With more of them gradients are reduced behind the last backward pass only (all of them where
/// dist.shard = "gradients"), and gathers end behind the first forward pass. reduce and gather
/// are sums over the buckets of latency + bytes / bandwidth.
struct StepPrediction {
  ComputeTimes compute = {};
  double reduce_s = 0, gather_s = 0;
  std::int64_t micro_steps = 1;
  bool reduces_every_micro_step = false;
  bool has_slow_mode = false;  ///< links that were seen in two modes when they were measured; the
                               ///< times above are between them
  double slow_reduce_s = 0, slow_gather_s = 0;  ///< with each of them in its slow one

  double step_s() const { return step_s(reduce_s, gather_s); }
  double slow_step_s() const { return step_s(slow_reduce_s, slow_gather_s); }

 private:
  double step_s(double reducing_s, double gathering_s) const;
};

/// COMPUTE as the calibration has it, for this plan's share of samples and elements. Empty text and
/// the times; or why it does not hold for this recipe.
struct ComputeFound {
  ComputeTimes times;
  std::string why_not;
};
ComputeFound compute_from(const Plan& plan, const formats::Calibration& calibration,
                          const configs::Recipe& recipe);

/// Why `calibration` cannot say what this plan's collectives cost; empty: it can.
std::string why_no_prediction(const Plan& plan, const formats::Calibration& calibration);
/// Wants why_no_prediction() to be empty.
StepPrediction predict(const Plan& plan, const ComputeTimes& compute,
                       const formats::Calibration& calibration);

}  // namespace trestle::trainers
