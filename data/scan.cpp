#include "data/scan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace trestle::data {

ScanReport scan(const Dataset& dataset, int threads, std::int64_t keep,
                const std::function<void(std::int64_t done)>& progress) {
  const std::int64_t size = dataset.size();
  std::atomic<std::int64_t> next = 0, done = 0;
  std::mutex mutex;  // guards what follows
  std::condition_variable ended;
  ScanReport report;
  std::exception_ptr failure;
  int working =
      static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(1, size)));

  const auto add = [&](const BadSample& sample) {
    const std::scoped_lock lock(mutex);
    ++report.bad;
    report.first.emplace(sample.id(), sample.what());
    if (std::ssize(report.first) > keep) report.first.erase(std::prev(report.first.end()));
  };
  const auto read = [&] {
    try {
      for (SampleId id = next++; id < size; id = next++, ++done) {
        try {
          dataset.load(std::span(&id, 1));
        } catch (const BadSample& sample) {
          add(sample);
        }
      }
    } catch (...) {
      next = size;  // the others need not go on
      const std::scoped_lock lock(mutex);
      failure = std::current_exception();
    }
    const std::scoped_lock lock(mutex);
    --working;
    ended.notify_one();
  };

  std::vector<std::jthread> readers;
  for (int i = working; i > 0; --i) readers.emplace_back(read);
  {
    std::unique_lock lock(mutex);
    while (!ended.wait_for(lock, std::chrono::milliseconds(100), [&] { return working == 0; })) {
      lock.unlock();  // readers need not wait for a terminal
      progress(done);
      lock.lock();
    }
  }
  readers.clear();
  if (failure) std::rethrow_exception(failure);
  progress(size);
  return report;
}

}  // namespace trestle::data
