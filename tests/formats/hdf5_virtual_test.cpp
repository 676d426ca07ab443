// Ranges of flattened arrays as boxes, and files of virtual datasets (what h5py makes of them is
// judged by tests/checkpoint/h5py_test.py).
#include "formats/hdf5_virtual.h"

#include "base/error.h"

#include <gtest/gtest.h>

#include <random>

namespace trestle::formats {
namespace {

using Shape = std::vector<std::int64_t>;

/// The flat numbers of a box's elements, in order.
std::vector<std::uint64_t> elements_of(const Shape& shape, const H5Box& box) {
  std::vector<std::uint64_t> numbers = {0};
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    std::vector<std::uint64_t> finer;
    for (const std::uint64_t number : numbers)
      for (std::uint64_t i = 0; i < box.size[axis]; ++i)
        finer.push_back(number * static_cast<std::uint64_t>(shape[axis]) + box.first[axis] + i);
    numbers = std::move(finer);
  }
  return numbers;
}

TEST(BoxesOfRange, TakeEachElementOnceInOrder) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 2000; ++round) {
    Shape shape(1 + random() % 4);
    std::uint64_t count = 1;
    for (std::int64_t& side : shape) {
      side = 1 + static_cast<std::int64_t>(random() % 5);
      count *= static_cast<std::uint64_t>(side);
    }
    const std::uint64_t begin = random() % count, end = begin + 1 + random() % (count - begin);
    std::uint64_t next = begin;
    const auto boxes = boxes_of_range(shape, begin, end);
    for (const H5Box& box : boxes)
      for (const std::uint64_t number : elements_of(shape, box)) ASSERT_EQ(number, next++);
    ASSERT_EQ(next, end);
    EXPECT_LE(boxes.size(), 2 * shape.size() - 1);
  }
}

TEST(BoxesOfRange, OfNothingAreNone) { EXPECT_TRUE(boxes_of_range(Shape{3, 4}, 5, 5).empty()); }

TEST(VirtualH5, EqualOnesHaveEqualBytes) {
  const std::vector<H5Virtual> datasets = {
      {.name = "model/x",
       .type = ElementType::bfloat16,
       .shape = {4, 3},
       .sources = {{"a.h5", "model/x[0:5]", 0, 5}, {"b.h5", "model/x[5:12]", 5, 12}}},
      {.name = "model/y",
       .type = ElementType::int32,
       .shape = {},
       .sources = {},
       .elements = std::vector<std::byte>(4)}};
  const std::map<std::string, H5Attribute> attributes = {
      {"step", std::int64_t{5}}, {"loss", 0.5}, {"note", std::string(100'000, 'x')}};
  const auto bytes = virtual_h5(datasets, attributes);
  EXPECT_GT(bytes.size(), 100'000u);
  EXPECT_EQ(bytes, virtual_h5(datasets, attributes));
}

TEST(VirtualH5, NamesThatMeetAreRefused) {
  const H5Virtual x{.name = "model/x", .shape = {2}, .sources = {{"a.h5", "model/x", 0, 2}}};
  H5Virtual below = x;
  below.name = "model/x/y";
  EXPECT_THROW(virtual_h5(std::vector{x, x}, {}), Error);
  EXPECT_THROW(virtual_h5(std::vector{x, below}, {}), Error);
}

}  // namespace
}  // namespace trestle::formats
