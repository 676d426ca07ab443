// How the parameters of one group and dtype lie in a flat buffer, and how that falls into buckets
// and shards. Arithmetic only; the same on every rank, and fixed before the first step.
//
//   BucketPlan plan(parameters, {.ranks = 4, .element_bytes = 4, .bucket_bytes = 0});
//   flat = at::empty(plan.numel());
//   for (const Placement& p : plan.placements()) ... flat[p.offset, p.offset + p.numel)
//   for (const Bucket& bucket : plan.buckets()) reduce_scatter(flat[bucket.begin, bucket.end));
//   plan.shard(bucket, rank)       // the elements that this rank owns
//
// Order: the last parameter first, because backward reaches it first; buckets are reduced in order
// of their index. A parameter lies in one bucket. Parameters begin, and shards are cut, on block
// borders, so a block of a logical tensor is never divided: sums over blocks are the same whatever
// the buckets, the shards and the number of ranks are. What lies between belongs to nobody and
// stays zero.
// LOCAL. THREADS: any (immutable).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trestle::dist {

/// Elements of a block: 1 KiB of fp32.
inline constexpr std::int64_t kBlockElements = 256;

/// Elements [begin, end) of a flat buffer.
struct ElementSpan {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Where a parameter lies in the flat buffer.
struct Placement {
  std::int64_t offset = 0, numel = 0;
  std::size_t bucket = 0;
};

/// The elements of a span that are the parameter's; where there are none, an empty span within it.
ElementSpan overlap(const Placement& place, const ElementSpan& span);

struct Bucket {
  std::int64_t begin = 0, end = 0;      ///< a multiple of ranks * kBlockElements long
  std::vector<std::size_t> parameters;  ///< indices, in the order in which they lie
  std::int64_t size() const { return end - begin; }
};

struct BucketOptions {
  int ranks = 1;
  std::int64_t element_bytes = 4;
  /// The size that buckets are filled up to. 0: 25 MB or 1 MB a rank, whichever is more, but at
  /// most an eighth of the group, so that there is something to overlap.
  std::int64_t bucket_bytes = 0;
};

class BucketPlan {
 public:
  /// `numels` of the parameters in export order, each >= 0.
  BucketPlan(std::span<const std::int64_t> numels, const BucketOptions& options);

  /// Of the whole flat buffer, padding included.
  std::int64_t numel() const { return buckets_.empty() ? 0 : buckets_.back().end; }
  /// By parameter, in export order.
  const std::vector<Placement>& placements() const { return placements_; }
  /// By index, which is the order of reduction. The first and the last are small: the first so that
  /// reduction begins early, the last because nothing is left that could hide it.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// Where a bucket stands on the way through the flat buffer: buckets of several groups that are
  /// reduced together are taken in this order.
  double way_to(const Bucket& bucket) const;
  /// The part of a bucket that a rank owns; equally long on every rank.
  ElementSpan shard(const Bucket& bucket, int rank) const;

 private:
  int ranks_;
  std::vector<Placement> placements_;
  std::vector<Bucket> buckets_;
};

}  // namespace trestle::dist
