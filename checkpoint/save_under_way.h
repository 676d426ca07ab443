// A save that may be under way, as those see it who change the state in place and who carry the
// ranks' messages. The training step knows no more of saving than this.
//
// THREADS: the main one.
#pragma once
#include "checkpoint/state_tree.h"

#include <cstdint>

namespace trestle::checkpoint {

/// What a rank tells the others about the save under way, and, summed over all ranks, what they
/// learn: how many say so.
struct SaveFlags {
  std::int64_t written = 0;  ///< its shard is on disk
  std::int64_t failed = 0;   ///< its part has failed, or was not done in time
  std::int64_t sealed = 0;   ///< rank 0: the checkpoint has its name
};

class SaveUnderWay {
 public:
  virtual ~SaveUnderWay() = default;

  /// LOCAL. Returns once what an update changes at this stage is copied.
  virtual void before_change(Stage stage) = 0;
  /// LOCAL. Returns once everything is.
  virtual void before_any_change() = 0;

  /// LOCAL. To be summed over all ranks of the run, and then learned by each of them.
  virtual SaveFlags flags() = 0;
  virtual void learn(const SaveFlags& of_all) = 0;
};

}  // namespace trestle::checkpoint
