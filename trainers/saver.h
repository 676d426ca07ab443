// When a checkpoint is written and what happens when it cannot be.
//
// A save that fails (a full disk) costs nothing that was there: it is said, the previous checkpoint
// stays, and the run goes on. The second failure in a row, or that of a run's last save, is an
// error. What a save is made of stands in checkpoint/async_saver.h.
//
//   Saver saver(mesh, {...});
//   engine.save_with(&saver.under_way());
//   each step: engine.step(...); saver.after_step(); if (due) saver.save(state, step, periodic);
//   saver.save(state, step, SaveKind::last);        // and waits for it
//
// COLLECTIVE or LOCAL is said at each function. THREADS: the main one.
#pragma once
#include "checkpoint/async_saver.h"
#include "dist/collectives.h"
#include "dist/mesh.h"
#include "trainers/options.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace trestle::trainers {

enum class SaveKind {
  periodic,  ///< the run goes on
  last,      ///< nothing will be saved after it
};

struct SaverSettings {
  std::filesystem::path folder;
  std::string resolved_recipe;
  std::optional<checkpoint::TopologyRecord> topology = std::nullopt;
  CheckpointOptions options = {};
  dist::FlightRing* flight = nullptr;  ///< is told when the training waits for a save
};

class Saver {
 public:
  /// COLLECTIVE. Recipe and topology go into every checkpoint. The mesh outlives the saver.
  Saver(const dist::Mesh& mesh, SaverSettings settings);

  /// LOCAL. Who holds the run directory, and on rank 0 what the save thread asks right before it
  /// gives a checkpoint its name, and does after that and after old checkpoints have gone.
  void publish_as(std::int64_t epoch, std::function<void()> before_publish,
                  std::function<void()> after_publish);

  /// LOCAL. Makes memory ready for background saves of this state, in the background.
  void prepare(const checkpoint::Visitor& state);
  /// COLLECTIVE. Saves the state unless its step is saved already: in the background, where it is
  /// periodic and checkpoint.async holds. A save still under way is waited for first, and that is
  /// said. Throws AgreedError(checkpoint) after two failures in a row, and at a failed last save.
  void save(const checkpoint::Visitor& state, std::int64_t step, SaveKind kind);
  /// COLLECTIVE, though ranks talk only where a save has failed. Says what became of a save that
  /// ended in this step; throws as save() does.
  void after_step();
  /// COLLECTIVE. Waits for a save under way, and says what became of it. Its failure is no error:
  /// the run is about to end.
  void settle();

  /// What the engine asks and carries.
  checkpoint::SaveUnderWay& under_way() { return saver_; }

  /// LOCAL. This checkpoint is there already (a resumed run's).
  void found(std::filesystem::path checkpoint, std::int64_t step);
  /// LOCAL. The newest checkpoint that this run wrote or found; empty where there is none.
  const std::filesystem::path& newest() const { return newest_; }
  /// LOCAL. How long the training has waited for saves on this rank.
  double waited_s() const { return saver_.waited_s(); }
  /// LOCAL. The longest that a save of this run took from its beginning until it was on disk, as
  /// rank 0 knows it; 0 before the first.
  double longest_save_s() const { return longest_save_s_; }

 private:
  enum class Failures { end_the_run, are_said };
  /// Of the save that has ended, if there is one.
  void conclude(SaveKind kind, Failures failures);
  void wait_for_save();

  const dist::Mesh& mesh_;
  SaverSettings settings_;
  checkpoint::SaveRequest request_;
  std::function<void()> after_publish_;
  std::unique_ptr<dist::Collectives> collectives_;
  checkpoint::AsyncSaver saver_;
  std::filesystem::path newest_;
  std::int64_t newest_step_ = -1;
  int failures_in_a_row_ = 0;
  double longest_save_s_ = 0;
};

}  // namespace trestle::trainers
