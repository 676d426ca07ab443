// Saving while the training goes on. One background thread a rank copies the state into staging
// memory and writes it; the training waits only right before it changes in place what is not copied
// yet. What the ranks have to agree on travels as three flags in messages that they exchange
// anyway.
//
//   AsyncSaver saver({.rank = world.rank(), .world = world.size(), .tag = agreed_tag(world)});
//   saver.begin(collect(visitor), request);       // the same request on every rank
//   each step:  saver.learn(sum_over_ranks(saver.flags()));
//               saver.before_change(stage);  ... change it ...
//   if (auto result = saver.take_result()) ...    // at the same step on every rank
//
// A save: each rank copies its pieces, writes its shard and its part of the manifest into a
// temporary folder, syncs them and says `written`. When all have said so, rank 0's thread seals:
// manifest.json, sync, rename, `latest`; then it says `sealed`. Who fails, or is not done within
// timeout_s, says `failed`, and the save is over on every rank. Writing and sealing have timeout_s
// each. Nothing that was there changes before the rename.
//
// LOCAL, every function. Ranks stay together because they begin the same saves at the same steps
// and learn the same sums. settle() in checkpoint/save.h waits for the end of a save, collectively.
// THREADS: the main one.
#pragma once
#include "checkpoint/save_request.h"
#include "checkpoint/save_thread.h"
#include "checkpoint/save_under_way.h"
#include "checkpoint/seal.h"
#include "checkpoint/shard_save.h"
#include "dist/flight_ring.h"

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>

namespace trestle::checkpoint {

struct AsyncSaverOptions {
  int rank = 0, world = 1;
  std::uint32_t tag = 0;  ///< the same on every rank, another in every run: names what is temporary
  std::uint64_t staging_bytes = 0;     ///< at most; 0: as much as a shard has
  double timeout_s = 1200;             ///< for writing, and again for sealing
  double grace_s = 30;                 ///< how much longer a rank waits for what others have to say
  dist::FlightRing* flight = nullptr;  ///< is told when the training waits
};

/// What became of a save. Times and bytes are this rank's, but for what rank 0 knows of all.
struct SaveResult {
  std::int64_t step = 0;
  std::filesystem::path checkpoint;
  bool sealed = false;
  std::exception_ptr why_not;  ///< this rank's failure; others may have theirs
  std::uint64_t copied_bytes = 0;
  std::uint64_t checkpoint_bytes = 0;  ///< rank 0: of all files
  double waited_s = 0;                 ///< the training, for this save
  double copying_s = 0;
  double took_s = 0;  ///< the save thread, for this shard; rank 0: for the slowest, and the seal
};

class AsyncSaver : public SaveUnderWay {
 public:
  using Clock = std::chrono::steady_clock;
  explicit AsyncSaver(AsyncSaverOptions options);
  ~AsyncSaver() override;
  AsyncSaver(const AsyncSaver&) = delete;
  AsyncSaver& operator=(const AsyncSaver&) = delete;

  /// Has the thread make memory ready for saves of this tree, so that the first one copies as fast
  /// as the others. A save that begins meanwhile waits for it.
  void prepare(StateTree tree, const SaveRequest& request);
  /// Returns once the tree's kUnstaged tensors are copied. No save may be under way. The tensors of
  /// other stages may change after before_change(). Errors show in flags().
  void begin(StateTree tree, const SaveRequest& request);
  /// From begin() to the learn() that ends it.
  bool under_way() const { return phase_ != Phase::idle; }
  /// The step that is being saved.
  std::int64_t step() const { return result_.step; }
  /// Of the save that has ended, once.
  std::optional<SaveResult> take_result();

  void before_change(Stage stage) override { wait(stage); }
  void before_any_change() override { wait(std::nullopt); }
  SaveFlags flags() override;
  void learn(const SaveFlags& of_all) override;

  /// Returns once flags() has something to say that others wait for.
  void wait_for_news() const;
  /// What the training did since then was to wait for this save.
  void count_wait(Clock::time_point since);
  /// By when every rank has said what it has to say, unless it is lost.
  Clock::time_point others_deadline() const { return deadline_ + 2 * grace(); }
  /// Until what a failed save left is deleted, and old checkpoints are; false: not in this time.
  bool wait_until_idle(double at_most_s) const;

  /// Since the beginning: how often before_change() has had to wait, and how long the training has
  /// waited.
  std::int64_t waits() const { return waits_; }
  double waited_s() const { return waited_s_; }

 private:
  enum class Phase : std::uint8_t { idle, writing, sealing };
  void wait(std::optional<Stage> stage);
  Clock::duration grace() const;
  void end(bool sealed, std::exception_ptr why_not);
  void start_sealing();
  std::exception_ptr too_late(std::string_view what) const;
  std::filesystem::path temporary_folder(const SaveRequest& request) const;
  ShardOwner owner(const SaveRequest& request) const;

  AsyncSaverOptions options_;
  std::shared_ptr<ShardTools> tools_;
  Phase phase_ = Phase::idle;
  Clock::time_point deadline_;
  SaveRequest request_;
  std::filesystem::path temporary_;
  std::shared_ptr<ShardSave> shard_;
  std::shared_ptr<Seal> seal_;  ///< rank 0's, while sealing
  bool reported_ = false;
  std::uint32_t saves_ = 0;
  std::int64_t waits_ = 0;
  double waited_s_ = 0;
  SaveResult result_;
  bool has_result_ = false;
  SaveThread thread_;  ///< the last member: it ends first
};

}  // namespace trestle::checkpoint
