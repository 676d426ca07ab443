// Which samples of a run turned out to be bad: each is said once, and when there are more than
// data.max_bad the run stops, on all ranks at the same step.
//
//   BadSamples bad(options.max_bad);
//   while (...) {
//     for (micro batches of the step) bad.note(batch.replaced);
//     bool news = ...;                       // bad.has_news() of any rank, with the step's sums
//     for (const auto& line : bad.merge(world, news)) log_common_warning(line);
//   }
//
// What is bad is a property of the data and what stands at a position a function of the position,
// so the set after a step is the same for any number of ranks.
// THREADS: one.
#pragma once
#include "data/dataset.h"
#include "dist/communicator.h"

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::data {

/// Bad samples with what is wrong with each ("" where only that is known, from a checkpoint).
using BadReasons = std::map<SampleId, std::string>;

/// LOCAL. The first few reasons, each on a line of its own, and how many more there are.
std::string first_reasons(const BadReasons& bad);

/// LOCAL. The error for more bad samples than `max_bad`: how many, the first few, what to do.
std::string too_many_bad(const BadReasons& bad, std::int64_t max_bad);

class BadSamples {
 public:
  explicit BadSamples(std::int64_t max_bad) : max_bad_(max_bad) {}

  /// LOCAL.
  void note(std::span<const Replacement> replaced);
  /// LOCAL. Has this rank noted samples that were not known before?
  bool has_news() const { return !fresh_.empty(); }

  /// COLLECTIVE, but does nothing where `news` is false. `news` is has_news() of any rank, the same
  /// on all. Afterwards every rank knows the same samples. Returns a line to log for each new one,
  /// equal on all ranks, or throws AgreedError(data) on all if there are more than max_bad in all.
  std::vector<std::string> merge(const dist::Communicator& world, bool news);

  /// LOCAL. Merged so far.
  std::int64_t count() const { return std::ssize(known_); }

  /// LOCAL. The merged ids in ascending order, "3 17 204", for a checkpoint, and back. Samples from
  /// a checkpoint count, and are not said again. Throws Error(checkpoint) for other text.
  std::string to_text() const;
  void restore(std::string_view text);

 private:
  std::int64_t max_bad_;
  BadReasons known_, fresh_;
};

}  // namespace trestle::data
