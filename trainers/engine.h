// The training step that runs: gradients reduced while backward runs, optimizer state and averages
// sharded over ranks, parameters gathered while the next batch is fetched. plain_step.h is its
// definition; here is the fast way to the same bits.
//
//   Engine engine(task, *collectives, EngineOptions::of(recipe));
//   StepReport report = engine.step({.step = step, ...});
//   engine.state(root);                  // to save and load; after loading: engine.publish()
//
// COLLECTIVE: every rank calls step(), publish() and what shows averages, at the same points. Where
// the task has branches, its collectives are those of the data axis; only how a step went (failed,
// stop, not finite) is agreed with the other branches (StepInputs::mesh).
// THREADS: one. STREAM: the current one (CPU so far).
#pragma once
#include "checkpoint/save_under_way.h"
#include "checkpoint/state_tree.h"
#include "dist/collectives.h"
#include "trainers/engine_options.h"
#include "trainers/step.h"
#include "trainers/task.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::trainers {

class Engine {
 public:
  /// LOCAL. The parameters of the task's groups move into flat buffers. Task and collectives
  /// outlive the engine.
  Engine(Task& task, dist::Collectives& collectives, const EngineOptions& options);
  Engine(Engine&&) noexcept;
  ~Engine();

  /// For each objective that is due: forward and backward over this rank's micro batches, sums over
  /// all ranks, clipping, optimizer, averages. An error on any rank is thrown on every rank before
  /// parameters change. Where a number is not finite nothing is updated, and the report says which.
  StepReport step(const StepInputs& inputs);

  /// The parameters are whole: what the last step still gathers has come. COLLECTIVE.
  void wait();

  /// Names as in checkpoints: model/..., optim/..., ema/.... What a rank holds of each, with the
  /// stages at which step() changes it.
  void state(checkpoint::Scope& root);
  /// From now on whatever changes the state asks this first, and step() carries its flags over all
  /// ranks. Null: nobody. It outlives the engine's use.
  void save_with(checkpoint::SaveUnderWay* saving);
  /// Returns once a save under way has copied everything: for those who change parameters
  /// themselves.
  void before_any_change();
  /// After state() has loaded masters: the parameters follow.
  void publish();

  /// While one lives, the parameters hold the moving average of this name (the masters in a group
  /// that keeps none of that name). Made COLLECTIVELY; its end is LOCAL, and the parameters are
  /// whole again in the next step.
  class Averaged {
   public:
    Averaged(Engine& engine, std::string_view average);
    ~Averaged();
    Averaged(const Averaged&) = delete;
    Averaged& operator=(const Averaged&) = delete;

   private:
    Engine& engine_;
  };

  /// COLLECTIVE. Throws AgreedError(code) where ranks hold different parameters, bit for bit.
  void require_same_parameters(std::string_view when, ExitCode code);

  const dist::Collectives& collectives() const;
  /// All parameters of all groups, under their export names.
  const std::vector<NamedParameter>& parameters() const;
  std::size_t buckets() const;
  /// This rank's sums of gradients and its masters after a step, by bucket, with what they are of:
  /// for comparison.
  struct HeldPiece {
    std::string parameter;
    std::int64_t begin = 0;  ///< of the flattened parameter
    at::Tensor gradient, master;
    std::vector<at::Tensor> averages;  ///< those that its group keeps
  };
  std::vector<HeldPiece> held() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Where a group's numbers stand in a checkpoint: with those of all, where there is only one group.
checkpoint::Scope count_scope(const checkpoint::Scope& scope, const std::string& group,
                              std::size_t groups);

}  // namespace trestle::trainers
