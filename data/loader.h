// Reads micro batches ahead of the training loop, in order, with a bounded number in flight.
//
//   Loader loader(dataset, sampler, plan, first_step, options, stop);
//   for (...) Batch batch = loader.next();          // step by step, micro batch by micro batch
//
// A bad sample (data/dataset.h) is replaced by the next good one of its kind in the permutation of
// its epoch, so what stands at a position still depends on the seed and the position alone: not on
// ranks, nor on what was read before. The batch says what was replaced.
//
// LOCAL. THREADS: next() from one thread; the loader runs `workers` threads of its own, which block
// every signal, and joins them when it is destroyed. An error while reading is thrown by next().
#pragma once
#include "base/stop.h"
#include "configs/describe.h"
#include "data/dataset.h"
#include "data/sampler.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace trestle::data {

struct LoaderOptions {
  std::int64_t workers = 1;
  std::int64_t prefetch = 4;
  std::int64_t max_bad = 16;

  void describe(configs::Fields& fields);
};

class Loader {
 public:
  /// `dataset` and the source of `stop` must outlive the loader.
  Loader(const Dataset& dataset, const Sampler& sampler, const BatchPlan& plan, Step first_step,
         const LoaderOptions& options, StopToken stop = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next micro batch of this rank; empty (size 0, no tensors) where the plan has none for it.
  /// Throws Error(data) where a bad sample has no replacement, or where this micro batch alone met
  /// more than max_bad bad ones. A stop that is requested while it waits is thrown
  /// (Error(preempted)).
  Batch next();

 private:
  struct Result {
    Batch batch;
    std::exception_ptr error;
  };
  Batch load(std::int64_t index) const;
  Batch load_replacing(std::vector<Position> positions) const;
  std::optional<SampleId> next_of_kind(Position position, std::int64_t& skip) const;
  void work();

  const Dataset& dataset_;
  Sampler sampler_;
  BatchPlan plan_;
  Step first_step_;
  std::int64_t depth_, max_bad_;
  StopToken stop_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::int64_t, Result> ready_;
  std::int64_t next_to_load_ = 0, next_to_give_ = 0;
  std::atomic<bool> stopping_ = false;  // written under the mutex, read without it between samples
  std::vector<std::thread> threads_;
};

}  // namespace trestle::data
