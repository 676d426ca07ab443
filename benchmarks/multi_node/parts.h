// What a training step is made of, each part alone: nothing else computes or sends meanwhile. From
// these the bound of the step: max(backward, reduce-scatter) + optimizer + max(forward,
// all-gather).
//
//   Parts parts(workload, options, *collectives, batch);
//   const auto ms = parts.measure(5);          // {"forward_ms": ..., "backward_ms": ..., ...}
//
// COLLECTIVE. THREADS: one. Every part is made of what the engine is made of, on a model of its
// own: backward takes gradients into the flat buffer (GradientReducer on one rank), buckets of that
// layout are reduce-scattered and gathered all at once, the optimizer is the norm and FusedAdamW
// over this rank's shards.
#pragma once
#include "benchmarks/bridge_on_pairs.h"
#include "dist/collectives.h"
#include "dist/gradient_reducer.h"
#include "trainers/engine.h"
#include "trainers/optim/fused_adamw.h"
#include "trainers/optim/shard_optimizer.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace trestle::benchmarks {

class Parts {
 public:
  /// `batch` samples on each rank. The collectives outlive this.
  Parts(const nlohmann::json& workload, const trainers::EngineOptions& options,
        dist::Collectives& collectives, std::int64_t batch);

  /// The mean of that many, of the slowest rank.
  nlohmann::json measure(std::int64_t repetitions);

 private:
  using Part = std::function<void()>;
  double timed_ms(std::int64_t repetitions, const Part& part) const;
  void make_shards();
  void forward();
  void backward();
  /// With shard = none all sums come back, and no parameters are gathered.
  void reduce_scatter();
  void all_gather(at::Tensor& flat);
  void optimizer_step();

  const dist::Communicator& world() const { return collectives_.communicator(); }

  dist::Collectives& collectives_;
  std::int64_t batch_;
  bool whole_;  ///< shard = none
  BridgeOnPairs task_;
  dist::FlatGroup flat_;
  std::unique_ptr<dist::Collectives> alone_;
  dist::GradientReducer reducer_;        ///< of one rank
  at::Tensor sums_, wire_, parameters_;  ///< of all buckets
  trainers::FusedAdamW adamw_;
  std::vector<trainers::Shard> shards_;
  std::int64_t step_ = 0;
  trainers::LocalLoss loss_;
};

}  // namespace trestle::benchmarks
