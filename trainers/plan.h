// What a recipe will need on N ranks, before it runs anywhere: memory of a rank, bytes on the wire,
// size of a checkpoint (and trainers/step_prediction.h: the time of a step). Arithmetic over the
// same bucket plans that the engine makes, and a walk through the loss on the meta device
// (trainers/activation_memory.h); no weights are made.
//
//   const auto task = check_recipe(recipe, world);               // on the meta device
//   const Plan plan = make_plan(recipe, *task, hosts_of_ranks(world, hosts));
//   plan.memory.total_bytes();
//
// LOCAL, on any machine. THREADS: one.
#pragma once
#include "configs/recipe.h"
#include "dist/topology.h"
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
  enum class When { reduction, gather } when = When::reduction;
  std::string_view operation = {};  ///< as a calibration names it
  std::int64_t bytes = 0;           ///< of the whole tensor
  std::int64_t times = 1;           ///< in a step
  std::size_t objective = 0;
  double begin = 0, end = 1;  ///< its bucket's part of the way through the objective's parameters,
                              ///< last layers first
};

struct Plan {
  dist::Topology ranks{{""}};                ///< that share the samples: of the first branch
  bool two_level = false;                    ///< dist/two_level.h
  std::int64_t tensors = 0, parameters = 0;  ///< trained
  std::int64_t micro_steps = 1;
  std::int64_t samples = 0;        ///< of the rank that has most, a step
  std::int64_t held_elements = 0;  ///< that a rank's optimizer steps
  bool reduces_every_micro_step = false;
  std::size_t objectives = 1;
  MemoryPlan memory = {};
  ActivationMemory activation = {};      ///< and why it is not known
  std::vector<Transfer> transfers = {};  ///< of a step in which all objectives are due; the small
                                         ///< collective of each objective is left out
  std::vector<std::int64_t> checkpoint_bytes = {};  ///< of tensors, by rank
  std::int64_t staging_bytes = 0;      ///< host memory that a save takes, on the rank that has most
  bool updates_wait_for_disk = false;  ///< since not all that a rank saves is staged at once

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

}  // namespace trestle::trainers
