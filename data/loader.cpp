#include "data/loader.h"

#include <ATen/ATen.h>

#include <pthread.h>
#include <signal.h>
#include <utility>

namespace trestle::data {

void LoaderOptions::describe(configs::Fields& f) {
  f.field("workers", workers, {.help = "threads that read pictures ahead", .min = 1, .max = 256});
  f.field("prefetch", prefetch,
          {.help = "micro batches read ahead", .unit = "micro batches", .min = 1, .max = 4096});
}

Loader::Loader(const Dataset& dataset, const Sampler& sampler, const BatchPlan& plan,
               Step first_step, const LoaderOptions& options)
    : dataset_(dataset),
      sampler_(sampler),
      plan_(plan),
      first_step_(first_step),
      depth_(options.prefetch) {
  // Signals are for the main thread: threads inherit the mask that holds while they start.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (std::int64_t i = 0; i < options.workers; ++i) threads_.emplace_back([this] { work(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Loader::~Loader() {
  {
    std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
}

Batch Loader::load(std::int64_t index) const {
  const Step step{first_step_.value + index / plan_.micro_steps()};
  const auto positions = plan_.micro_batch(step, index % plan_.micro_steps());
  if (positions.empty()) return {};
  std::vector<SampleId> ids;
  ids.reserve(positions.size());
  for (const Position position : positions) ids.push_back(sampler_.at(position));
  Batch batch = dataset_.load(ids);
  batch.positions = positions;
  return batch;
}

void Loader::work() {
  for (;;) {
    std::int64_t index;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || next_to_load_ < next_to_give_ + depth_; });
      if (stopping_) return;
      index = next_to_load_++;
    }
    Result result;
    try {
      result.batch = load(index);
    } catch (...) {
      result.error = std::current_exception();
    }
    {
      std::scoped_lock lock(mutex_);
      ready_.emplace(index, std::move(result));
    }
    changed_.notify_all();
  }
}

Batch Loader::next() {
  Result result;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ready_.contains(next_to_give_); });
    result = std::move(ready_.extract(next_to_give_).mapped());
    ++next_to_give_;
  }
  changed_.notify_all();
  if (result.error) std::rethrow_exception(result.error);
  return std::move(result.batch);
}

}  // namespace trestle::data
