// Reads micro batches ahead of the training loop, in order, with a bounded number in flight.
//
//   Loader loader(dataset, sampler, plan, first_step, options);
//   for (...) Batch batch = loader.next();          // step by step, micro batch by micro batch
//
// LOCAL. THREADS: next() from one thread; the loader runs `workers` threads of its own, which block
// every signal, and joins them when it is destroyed. An error while reading is thrown by next().
#pragma once
#include "configs/describe.h"
#include "data/dataset.h"
#include "data/sampler.h"

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace trestle::data {

struct LoaderOptions {
  std::int64_t workers = 1;
  std::int64_t prefetch = 4;

  void describe(configs::Fields& fields);
};

class Loader {
 public:
  /// `dataset` must outlive the loader.
  Loader(const Dataset& dataset, const Sampler& sampler, const BatchPlan& plan, Step first_step,
         const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next micro batch of this rank; empty (size 0, no tensors) where the plan has none for it.
  Batch next();

 private:
  struct Result {
    Batch batch;
    std::exception_ptr error;
  };
  Batch load(std::int64_t index) const;
  void work();

  const Dataset& dataset_;
  Sampler sampler_;
  BatchPlan plan_;
  Step first_step_;
  std::int64_t depth_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::int64_t, Result> ready_;
  std::int64_t next_to_load_ = 0, next_to_give_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace trestle::data
