// What one rank writes of the state, and where in its file: pieces in the order in which the next
// update changes them, so that a copy of the state that goes through the file from its first byte
// to its last is always ahead of the update.
//
//   ShardPlanner planner;
//   const ShardPlan plan = planner.plan(tree, {.rank = 0, .world = 2, .holder = {0, 2}});
//   for (const Segment& segment : plan.segments) ... copy segment.bytes to segment.offset
//   if (copied_bytes >= plan.end_of(stage)) ... what changes at that stage may change
//
// LOCAL. THREADS: one; the only user of HDF5.
// ERRORS: ExitCode::checkpoint; a dtype that checkpoints do not hold is a bug of ours.
#pragma once
#include "checkpoint/manifest.h"
#include "checkpoint/state_tree.h"
#include "formats/hdf5.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace trestle::checkpoint {

/// One of several that hold the same tensors.
struct Holder {
  int rank = 0, count = 1;
};

/// Whose shard it is.
struct ShardOwner {
  int rank = 0, world = 1;
  Holder holder = {};
};

/// "shard-00000-of-00002.h5"
std::string shard_name(const ShardOwner& owner);

/// Bytes of the file that come from one place.
struct Segment {
  enum class Source : std::uint8_t { tensor, hdf5 } source = Source::tensor;
  std::uint64_t offset = 0, bytes = 0;
  std::size_t index = 0;      ///< of the tree's entry, or of the layout's part
  std::uint64_t at_byte = 0;  ///< of that entry's own elements
};

struct ShardPlan {
  Manifest manifest;              ///< of this shard alone; its file has no digests yet
  std::vector<Segment> segments;  ///< of all bytes of the file, ascending
  formats::H5Layout layout;
  std::map<Stage, std::uint64_t> stages;  ///< that have bytes here: where the last of them ends

  std::uint64_t file_bytes() const { return layout.file_bytes; }
  /// How much of the file has to be copied before the update may go over this stage.
  std::uint64_t end_of(Stage stage) const;
};

class ShardPlanner {
 public:
  ShardPlan plan(const StateTree& tree, const ShardOwner& owner);

 private:
  // HDF5 takes longest, and every save of a run has the same datasets.
  std::vector<formats::H5Dataset> datasets_;
  formats::H5Layout layout_;
};

}  // namespace trestle::checkpoint
