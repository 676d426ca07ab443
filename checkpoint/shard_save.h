// One rank's part of one save: its pieces are copied into the staging memory, in the order in which
// the next update changes them, and from there into its file; then its manifest is written beside
// the file, for rank 0 to read. Copying comes first whenever there is room.
//
//   ShardSave shard(tree, {...}, tools);
//   save thread: shard.run();                       // then the files are on disk, or it has failed
//   main thread: shard.wait_until_copied(stage, deadline);
//
// LOCAL. THREADS: run() and discard() on the save thread, one after the other; the rest on the main
// thread. The tree's tensors are read until they are copied, or until cancel() has returned.
// ERRORS end in ending().why(); ExitCode::checkpoint.
#pragma once
#include "checkpoint/ending.h"
#include "checkpoint/save_step.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/staging.h"
#include "checkpoint/state_tree.h"

#include <c10/core/Event.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

namespace trestle::checkpoint {

struct ShardRequest {
  std::filesystem::path folder;  ///< the temporary one; made if missing
  std::int64_t step = 0;
  ShardOwner owner = {};
};

/// What the saves of a rank use one after the other.
struct ShardTools {
  explicit ShardTools(std::uint64_t staging_limit_bytes) : staging(staging_limit_bytes) {}
  /// Staging memory as a save of this tree will want it, already the process's own.
  void prepare(const StateTree& tree, const ShardOwner& owner);
  ShardPlanner planner;
  Staging staging;
};

class ShardSave {
 public:
  using Clock = Ending::Clock;

  ShardSave(StateTree tree, ShardRequest request, std::shared_ptr<ShardTools> tools);

  void run() noexcept;
  /// Deletes this rank's files; the last rank to do so deletes the folder, too.
  void discard() noexcept;

  /// Whether what changes at this stage is copied (no stage: whether all is), or need not be any
  /// more, since the save has failed.
  bool is_copied(std::optional<Stage> stage) const;
  /// Sleeps until that is so; false where it is not when the time has come.
  bool wait_until_copied(std::optional<Stage> stage, Clock::time_point deadline) const;
  const Ending& ending() const { return ending_; }
  /// It fails for this reason, unless it has ended. Nothing of the state is read after this.
  void cancel(std::exception_ptr why);

  std::uint64_t copied_bytes() const { return copied_bytes_; }
  /// Once it is done: how long run() took, and how much of that it copied.
  double took_s() const { return took_s_; }
  double copying_s() const { return copying_s_; }

 private:
  void plan();
  FileRecord copy_and_write();
  void copy_block(std::uint64_t block, std::span<std::byte> into);
  void copy(const Segment& segment, std::uint64_t from, std::span<std::byte> into);
  bool is_in_staging(std::optional<Stage> stage) const;
  /// Throws once the save has failed.
  void require_wanted() const;
  void reach(SaveStep step) const;

  StateTree tree_;
  std::optional<c10::Event> ready_;  ///< where tensors are on a GPU: what was to be done to them is
  ShardRequest request_;
  std::shared_ptr<ShardTools> tools_;
  Ending ending_;

  ShardPlan plan_;
  std::atomic<bool> planned_ = false;  ///< from then on plan_ stays as it is
  std::atomic<std::uint64_t> copied_bytes_ = 0;
  std::atomic<double> took_s_ = 0, copying_s_ = 0;

  std::mutex reading_;  ///< held while the state is read
  // The save thread's alone:
  std::size_t next_segment_ = 0;
  std::size_t flat_of_ = static_cast<std::size_t>(-1);
  at::Tensor flat_;  ///< the bytes of entry flat_of_, where they lie or as a copy in order
};

}  // namespace trestle::checkpoint
