#include "data/loader.h"

#include "base/deaf_thread.h"
#include "base/error.h"
#include "data/bad_samples.h"

#include <ATen/ATen.h>

#include <chrono>
#include <map>
#include <utility>

namespace trestle::data {

void LoaderOptions::describe(configs::Fields& f) {
  f.field("workers", workers,
          {.help = "threads that read pictures ahead", .min = 1, .max = 256, .may_change = true});
  f.field("prefetch", prefetch,
          {.help = "micro batches read ahead",
           .unit = "micro batches",
           .min = 1,
           .max = 4096,
           .may_change = true});
  f.field("max_bad", max_bad,
          {.help = "distinct unreadable samples that a run may replace before it stops; 0: none",
           .unit = "samples",
           .min = 0,
           .may_change = true});
}

Loader::Loader(const Dataset& dataset, const Sampler& sampler, const BatchPlan& plan,
               Step first_step, const LoaderOptions& options, StopToken stop)
    : dataset_(dataset),
      sampler_(sampler),
      plan_(plan),
      first_step_(first_step),
      depth_(options.prefetch),
      max_bad_(options.max_bad),
      stop_(stop) {
  for (std::int64_t i = 0; i < options.workers; ++i)
    threads_.push_back(deaf_thread([this] { work(); }));
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
  return load_replacing(positions);
}

Batch Loader::load_replacing(std::vector<Position> positions) const {
  std::vector<SampleId> ids;
  for (const Position position : positions) ids.push_back(sampler_.at(position));
  std::vector<std::int64_t> skips(ids.size(), 0);
  BadReasons bad;
  std::vector<Replacement> replaced;
  for (;;) {
    try {
      Batch batch = dataset_.load(ids);
      batch.positions = std::move(positions);
      batch.replaced = std::move(replaced);
      return batch;
    } catch (const BadSample& sample) {
      TRESTLE_ASSERT(bad.emplace(sample.id(), sample.what()).second, "sample {} was not asked for",
                     sample.id());
    }
    if (std::ssize(bad) > max_bad_) throw Error(ExitCode::data, too_many_bad(bad, max_bad_));
    if (stopping_) return {};  // nobody will ask for it
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (auto found = bad.find(ids[i]); found != bad.end(); found = bad.find(ids[i])) {
        replaced.push_back({positions[i], found->first, found->second});
        const auto next = next_of_kind(positions[i], skips[i]);
        TRESTLE_REQUIRE_AS(data, next,
                           "no sample of kind \"{}\" can be used (each is bad, so none can take "
                           "another's place). Repair them; `trestle validate` lists all.{}",
                           dataset_.kind(ids[i]), first_reasons(bad));
        ids[i] = *next;
      }
    }
  }
}

std::optional<SampleId> Loader::next_of_kind(Position position, std::int64_t& skip) const {
  const auto kind = dataset_.kind(sampler_.at(position));
  while (++skip < sampler_.size()) {
    const SampleId id = sampler_.at(position, skip);
    if (dataset_.kind(id) == kind) return id;
  }
  return std::nullopt;
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
    // A signal handler cannot wake a condition variable, so this looks now and then.
    constexpr auto kPoll = std::chrono::milliseconds(50);
    while (!changed_.wait_for(lock, kPoll, [&] { return ready_.contains(next_to_give_); }))
      stop_.check();
    result = std::move(ready_.extract(next_to_give_).mapped());
    ++next_to_give_;
  }
  changed_.notify_all();
  if (result.error) std::rethrow_exception(result.error);
  return std::move(result.batch);
}

}  // namespace trestle::data
