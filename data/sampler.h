// Which sample is seen at which position of a run: a pure function of (seed, position).
//
// Every epoch is a permutation of the data set, computed and never stored; nothing depends on the
// rank, on how many there are, or on what was read before, so a resumed run needs only its
// position. LOCAL. THREADS: any (immutable).
#pragma once
#include "base/ids.h"

#include <cstdint>
#include <vector>

namespace trestle::data {

/// Index into a data set.
using SampleId = std::int64_t;

class Sampler {
 public:
  /// size >= 1 samples.
  Sampler(std::uint64_t seed, std::int64_t size);

  /// Epoch floor(position / size) visits every id once.
  SampleId at(Position position) const { return at(position, 0); }
  /// The sample `skip` places further on in the position's epoch, whose end is followed by its
  /// beginning; 0 <= skip < size. All skips together visit every id once.
  SampleId at(Position position, std::int64_t skip) const;
  std::int64_t size() const { return size_; }

 private:
  std::uint64_t seed_;
  std::int64_t size_;
  int half_bits_;  // the permuted domain is 2^(2 half_bits) >= size
};

/// How the global batch of a step falls on ranks and micro batches.
///
/// Rank k of W takes the contiguous places [G k / W, G (k+1) / W) of the global batch and walks
/// through them `micro_batch` at a time; every rank does the same number of micro steps (the last
/// ones of a short rank may be empty).
class BatchPlan {
 public:
  BatchPlan(std::int64_t global_batch, std::int64_t micro_batch, int rank, int world);

  std::int64_t micro_steps() const { return micro_steps_; }
  /// Positions of one micro batch on this rank; may be empty.
  std::vector<Position> micro_batch(Step step, std::int64_t micro_step) const;
  /// Positions of the whole global batch of a step.
  std::vector<Position> global_batch(Step step) const;
  std::int64_t samples_here() const { return end_ - begin_; }

 private:
  std::int64_t global_batch_, micro_batch_, begin_, end_, micro_steps_;
};

}  // namespace trestle::data
