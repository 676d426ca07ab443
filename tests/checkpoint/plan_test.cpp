#include "checkpoint/plan.h"

#include <gtest/gtest.h>

#include <random>

namespace trestle::checkpoint {
namespace {

std::uint64_t bytes_of_share(const std::vector<TensorSize>& tensors,
                             const std::vector<ElementRange>& share) {
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    bytes += (share[i].end - share[i].begin) * tensors[i].element_bytes;
  return bytes;
}

/// Every element exactly once, in rank order.
void expect_exact_cover(const std::vector<TensorSize>& tensors, int world) {
  std::vector<std::uint64_t> covered(tensors.size(), 0);
  for (int rank = 0; rank < world; ++rank) {
    const auto share = share_of(tensors, rank, world);
    ASSERT_EQ(share.size(), tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (share[i].begin == share[i].end) continue;
      EXPECT_EQ(share[i].begin, covered[i]) << "tensor " << i << ", rank " << rank;
      covered[i] = share[i].end;
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_EQ(covered[i], tensors[i].elements);
}

TEST(Plan, EveryRankHasItsShare) {
  // A transformer's tensors: a few large, many of a few hundred elements.
  std::vector<TensorSize> tensors;
  for (int block = 0; block < 4; ++block) {
    for (const std::uint64_t elements : {128 * 128, 512 * 128, 128, 1, 0, 128 * 512, 9 * 512})
      tensors.push_back({static_cast<std::uint64_t>(elements), 4});
    tensors.push_back({1000, 8});
    tensors.push_back({333, 2});
  }
  for (const int world : {1, 2, 3, 4}) {
    expect_exact_cover(tensors, world);
    std::uint64_t total = 0;
    for (const TensorSize& tensor : tensors) total += tensor.elements * tensor.element_bytes;
    for (int rank = 0; rank < world; ++rank) {
      const auto bytes =
          static_cast<double>(bytes_of_share(tensors, share_of(tensors, rank, world)));
      const double mean = static_cast<double>(total) / world;
      EXPECT_NEAR(bytes, mean, 0.01 * mean + 8) << "rank " << rank << " of " << world;
    }
  }
}

TEST(Plan, OneLargeTensorIsSplit) {
  const std::vector<TensorSize> tensors = {{1'000'003, 4}};
  EXPECT_EQ(share_of(tensors, 0, 4)[0], (ElementRange{0, 250'000}));
  EXPECT_EQ(share_of(tensors, 3, 4)[0], (ElementRange{750'002, 1'000'003}));
  expect_exact_cover(tensors, 4);
}

TEST(Plan, SmallTensorsStayWhole) {
  const std::vector<TensorSize> tensors(1001, TensorSize{100, 4});
  for (int rank = 0; rank < 4; ++rank)
    for (const ElementRange& range : share_of(tensors, rank, 4))
      EXPECT_TRUE(range.begin == range.end || range == (ElementRange{0, 100}));
  expect_exact_cover(tensors, 4);
}

TEST(Plan, RandomSizesAndWorldsAreCovered) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<TensorSize> tensors(random() % 12);
    for (TensorSize& tensor : tensors)
      tensor = {random() % (random() % 2 ? 5 : 5000), std::uint64_t{1} << random() % 4};
    expect_exact_cover(tensors, 1 + static_cast<int>(random() % 150));
  }
}

TEST(Plan, MoreRanksThanElements) {
  expect_exact_cover({{1, 8}, {0, 4}, {2, 2}}, 9);
  expect_exact_cover({}, 3);
}

}  // namespace
}  // namespace trestle::checkpoint
