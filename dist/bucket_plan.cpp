#include "dist/bucket_plan.h"

#include "base/error.h"

#include <algorithm>
#include <numeric>

namespace trestle::dist {
namespace {

constexpr std::int64_t kMegabyte = 1'000'000;

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

std::int64_t default_bytes(std::int64_t group_bytes, int ranks) {
  return std::min(std::max(25 * kMegabyte, ranks * kMegabyte),
                  std::max<std::int64_t>(group_bytes / 8, 1));
}

/// Indices, last first, cut into runs: the first and the last run are filled up to a quarter of
/// `capacity`, the others up to all of it. What is larger than that has a run of its own.
std::vector<std::vector<std::size_t>> runs(std::span<const std::int64_t> numels,
                                           std::int64_t capacity) {
  const std::int64_t small = std::max<std::int64_t>(1, capacity / 4);
  const std::size_t count = numels.size();
  const auto numel = [&](std::size_t place) { return numels[count - 1 - place]; };

  // Where the last run begins; it has at least one parameter, and the first run another.
  std::size_t tail = count > 1 ? count - 1 : count;
  for (std::int64_t filled = tail < count ? numel(tail) : 0; tail > 1; --tail) {
    filled += numel(tail - 1);
    if (filled > small) break;
  }
  std::vector<std::vector<std::size_t>> result;
  std::int64_t filled = 0;
  for (std::size_t place = 0; place < count; ++place) {
    const std::int64_t limit = result.size() <= 1 ? small : capacity;
    const bool full = place < tail && filled + numel(place) > limit;
    if (place == 0 || place == tail || full) {
      result.emplace_back();
      filled = 0;
    }
    result.back().push_back(count - 1 - place);
    filled += numel(place);
  }
  return result;
}

}  // namespace

ElementSpan overlap(const Placement& place, const ElementSpan& span) {
  const std::int64_t begin = std::clamp(place.offset, span.begin, span.end);
  return {begin, std::clamp(place.offset + place.numel, begin, span.end)};
}

BucketPlan::BucketPlan(std::span<const std::int64_t> numels, const BucketOptions& options)
    : ranks_(options.ranks), placements_(numels.size()) {
  TRESTLE_ASSERT(options.ranks >= 1 && options.element_bytes >= 1, "{} ranks, {} bytes",
                 options.ranks, options.element_bytes);
  const std::int64_t total = std::accumulate(numels.begin(), numels.end(), std::int64_t{0});
  const std::int64_t bytes = options.bucket_bytes > 0
                                 ? options.bucket_bytes
                                 : default_bytes(total * options.element_bytes, options.ranks);
  const std::int64_t capacity = std::max<std::int64_t>(1, bytes / options.element_bytes);

  std::int64_t offset = 0;
  for (auto& parameters : runs(numels, capacity)) {
    Bucket bucket{.begin = offset, .end = 0, .parameters = std::move(parameters)};
    for (const std::size_t i : bucket.parameters) {
      placements_[i] = {.offset = offset, .numel = numels[i], .bucket = buckets_.size()};
      offset += round_up(numels[i], kBlockElements);
    }
    offset = bucket.begin + round_up(offset - bucket.begin, ranks_ * kBlockElements);
    bucket.end = offset;
    buckets_.push_back(std::move(bucket));
  }
}

double BucketPlan::way_to(const Bucket& bucket) const {
  return double(bucket.begin + bucket.end) / double(std::max<std::int64_t>(1, numel()));
}

ElementSpan BucketPlan::shard(const Bucket& bucket, int rank) const {
  const std::int64_t length = bucket.size() / ranks_;
  return {bucket.begin + rank * length, bucket.begin + (rank + 1) * length};
}

}  // namespace trestle::dist
