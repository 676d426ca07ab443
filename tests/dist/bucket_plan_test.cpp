#include "dist/bucket_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace trestle::dist {
namespace {

using Numels = std::vector<std::int64_t>;

/// What must hold for every plan.
void check(const BucketPlan& plan, const Numels& numels, int ranks) {
  ASSERT_EQ(plan.placements().size(), numels.size());
  std::int64_t end = 0;
  std::size_t next = numels.size();  // the last parameter is the first in the buffer
  for (std::size_t b = 0; b < plan.buckets().size(); ++b) {
    const Bucket& bucket = plan.buckets()[b];
    EXPECT_FALSE(bucket.parameters.empty());
    EXPECT_EQ(bucket.begin, end) << "buckets lie end to end";
    EXPECT_EQ(bucket.size() % (ranks * kBlockElements), 0);
    end = bucket.begin;
    for (const std::size_t i : bucket.parameters) {
      ASSERT_EQ(i, --next) << "reverse export order";
      const Placement& place = plan.placements()[i];
      EXPECT_EQ(place.bucket, b);
      EXPECT_EQ(place.numel, numels[i]);
      EXPECT_EQ(place.offset % kBlockElements, 0);
      EXPECT_GE(place.offset, end);
      end = place.offset + place.numel;
    }
    EXPECT_LE(end, bucket.end);
    end = bucket.end;
    std::int64_t shard_end = bucket.begin;
    for (int rank = 0; rank < ranks; ++rank) {
      const ElementSpan shard = plan.shard(bucket, rank);
      EXPECT_EQ(shard.begin, shard_end);
      EXPECT_EQ(shard.begin % kBlockElements, 0) << "a shard's border divides no block";
      EXPECT_EQ(shard.size(), bucket.size() / ranks);
      shard_end = shard.end;
    }
    EXPECT_EQ(shard_end, bucket.end);
  }
  EXPECT_EQ(next, 0u) << "every parameter is in a bucket";
  EXPECT_EQ(plan.numel(), end);
}

TEST(BucketPlan, HoldsForAnything) {
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    Numels numels(random() % 40);
    for (auto& numel : numels) numel = random() % (round % 3 == 0 ? 20 : 20000);
    const int ranks = 1 + static_cast<int>(random() % 9);
    const std::int64_t bytes = round % 2 ? 0 : 1 + static_cast<std::int64_t>(random() % 200000);
    check(BucketPlan(numels, {.ranks = ranks, .element_bytes = 4, .bucket_bytes = bytes}), numels,
          ranks);
  }
}

TEST(BucketPlan, FirstAndLastAreSmallAndTheOthersAreFull) {
  const Numels numels(100, 10'000);  // 40 KB each
  const BucketPlan plan(numels, {.ranks = 2, .element_bytes = 4, .bucket_bytes = 400'000});
  const auto& buckets = plan.buckets();
  EXPECT_EQ(buckets.front().parameters.size(), 2u);  // 100 KB at most
  EXPECT_EQ(buckets.back().parameters.size(), 2u);
  for (std::size_t b = 1; b + 2 < buckets.size(); ++b) EXPECT_EQ(buckets[b].parameters.size(), 10u);
}

TEST(BucketPlan, ALargeParameterHasABucketOfItsOwn) {
  const BucketPlan plan(Numels{500, 1'000'000, 500},
                        {.ranks = 3, .element_bytes = 4, .bucket_bytes = 40'000});
  ASSERT_EQ(plan.buckets().size(), 3u);
  EXPECT_EQ(plan.buckets()[1].parameters, (std::vector<std::size_t>{1}));
}

TEST(BucketPlan, TheDefaultLeavesSomethingToOverlap) {
  const Numels small(64, 30'000);  // 7.7 MB: an eighth is less than 25 MB
  const auto buckets = BucketPlan(small, {.ranks = 2}).buckets().size();
  EXPECT_GE(buckets, 8u);
  EXPECT_LE(buckets, 12u);
  const Numels large(400, 2'000'000);                                              // 3.2 GB
  EXPECT_EQ(BucketPlan(large, {.ranks = 8}).buckets()[2].parameters.size(), 3u);   // 25 MB
  EXPECT_EQ(BucketPlan(large, {.ranks = 64}).buckets()[2].parameters.size(), 8u);  // 64 MB
}

TEST(BucketPlan, OneParameterOrNone) {
  EXPECT_EQ(BucketPlan(Numels{}, {.ranks = 2}).numel(), 0);
  const BucketPlan one(Numels{5}, {.ranks = 2});
  EXPECT_EQ(one.numel(), 2 * kBlockElements);
  EXPECT_EQ(one.buckets().size(), 1u);
}

}  // namespace
}  // namespace trestle::dist
