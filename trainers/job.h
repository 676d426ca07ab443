// Rank-parallel work besides training: evaluate, cache, make pictures. A job is a range of indices
// that can be worked on in any split.
#pragma once
#include "base/stop.h"
#include "base/torch/draws.h"
#include "dist/communicator.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace trestle::trainers {

/// [begin, end)
struct IndexRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

struct JobContext {
  const dist::Communicator& world;  ///< the ranks that share the job: those of this branch
  const Draws& draws;
  /// To be called as items get done, by how many; rank 0 shows progress.
  std::function<void(std::int64_t items)> advance;
  /// To be polled (check()) by every loop of run().
  StopToken stop;
  /// What the job found out, for summary.json; equal on all ranks after finish().
  std::map<std::string, double> results;
};

class Job {
 public:
  virtual ~Job() = default;
  virtual std::string_view name() const = 0;
  virtual std::int64_t size() const = 0;
  /// LOCAL. Works on its items; called with disjoint ranges, on every rank with its own.
  virtual void run(IndexRange range, JobContext& context) = 0;
  /// COLLECTIVE. Merges what the ranks found.
  virtual void finish(JobContext&) {}
};

/// COLLECTIVE. Splits the job evenly over the ranks, runs it, agrees on errors, finishes it.
void run_job(Job& job, JobContext& context);

}  // namespace trestle::trainers
