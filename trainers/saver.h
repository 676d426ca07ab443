// When a checkpoint is written and what happens when it cannot be.
//
// A save that fails (a full disk) costs nothing that was there: it is said, the previous checkpoint
// stays, and the run goes on. The second failure in a row, or that of a run's last save, is an
// error.
//
// COLLECTIVE: every function but the last. THREADS: one.
#pragma once
#include "checkpoint/save.h"
#include "dist/mesh.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace trestle::trainers {

enum class SaveKind {
  periodic,  ///< the run goes on
  last,      ///< nothing will be saved after it
};

class Saver {
 public:
  /// `resolved_recipe` and `topology` go into every checkpoint. The mesh outlives the saver.
  Saver(const dist::Mesh& mesh, std::filesystem::path folder, std::string resolved_recipe,
        checkpoint::TopologyRecord topology);

  /// Every checkpoint from now on is of this epoch (checkpoint/lease.h), and rank 0 asks
  /// `before_publish` right before it gets its name; what that throws ends the save.
  void fence(std::int64_t epoch, std::function<void()> before_publish);

  /// Writes the state unless its step is saved already. Throws AgreedError(checkpoint) after two
  /// failures in a row, and at a failed last save.
  void save(const checkpoint::Visitor& state, std::int64_t step, SaveKind kind);

  /// LOCAL. This checkpoint is there already (a resumed run's).
  void found(std::filesystem::path checkpoint, std::int64_t step);
  /// LOCAL. The newest checkpoint that this run wrote or found; empty where there is none.
  const std::filesystem::path& newest() const { return newest_; }

 private:
  const dist::Mesh& mesh_;
  std::filesystem::path folder_;
  std::string recipe_toml_, recipe_hash_;
  checkpoint::TopologyRecord topology_;
  std::filesystem::path newest_;
  std::int64_t newest_step_ = -1;
  int failures_in_a_row_ = 0;
  std::int64_t epoch_ = 0;
  std::function<void()> before_publish_;
};

}  // namespace trestle::trainers
