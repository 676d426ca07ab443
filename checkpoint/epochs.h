// Which epoch of a run directory (lease.h) began to train from which step: what tells a checkpoint
// of the run's line from one that a run everybody believed dead has written since.
//
//   Epochs epochs = Epochs::read(run / "checkpoints");
//   if (epochs.superseded(manifest.epoch, manifest.step)) ...     // never to be chosen
//   epochs.record({.epoch = lease.epoch(), .holder = me.to_text(), .from_step = resumed_step});
//
// A node may come back after its run was taken over, and give the checkpoint it was writing its
// name: of a higher step, perhaps, than any that the new run has. That run had gone on from an
// older step, which is written here, and so everything later of earlier epochs is void.
//
// The file, checkpoints/epochs.json, is replaced atomically, by the holder of the lease. If it is
// damaged, a warning says so, and nothing counts as superseded: every checkpoint is whole and of
// this run's recipe, so the worst that can come is that the newest is one of a run that was taken
// over; to refuse them all would throw away what is surely good. The next record() keeps the
// damaged file under another name and makes a new one.
//
// LOCAL. THREADS: one. ERRORS: ExitCode::checkpoint, for what cannot be read or written.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::checkpoint {

struct EpochStart {
  std::int64_t epoch = 0;
  std::string holder;           ///< LeaseHolder::to_text(), for people
  std::int64_t from_step = -1;  ///< of the checkpoint that it went on from; -1: from none

  bool operator==(const EpochStart&) const = default;
};

class Epochs {
 public:
  static constexpr const char* kName = "epochs.json";

  /// Those recorded in a folder of checkpoints; none where there is no file.
  static Epochs read(const std::filesystem::path& checkpoints);

  /// In ascending order; only those that superseded() or a reader may still need.
  const std::vector<EpochStart>& starts() const { return starts_; }
  /// The highest recorded, 0 if there is none.
  std::int64_t last() const { return starts_.empty() ? 0 : starts_.back().epoch; }

  /// Whether a later epoch went on from a step before this one: then a checkpoint that epoch
  /// `epoch` wrote of `step` is not part of the run any more. Epoch 0 (nobody counted) is before
  /// all others.
  bool superseded(std::int64_t epoch, std::int64_t step) const;

  /// Adds one, later than all, and writes the file. For the holder of the lease.
  void record(const EpochStart& start);

 private:
  friend Epochs parse_epochs(std::string_view, const std::string&);
  void forget();

  std::filesystem::path file_;
  std::vector<EpochStart> starts_;
  bool damaged_ = false;  ///< what stands in the file
};

std::string to_text(const std::vector<EpochStart>& starts);
/// Throws Error(checkpoint), which names `origin`, for a text that is not whole.
Epochs parse_epochs(std::string_view text, const std::string& origin);

}  // namespace trestle::checkpoint
