// Version 1 of the format is frozen: the folders of tests/checkpoint/frozen were written once, by
// two ranks, and have to load for ever. A change that breaks this test breaks people's checkpoints;
// never write a folder anew.
#include "checkpoint/index_file.h"
#include "checkpoint/load.h"
#include "checkpoint/verify.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace trestle::checkpoint {
namespace {

const std::filesystem::path kFolder =
    std::filesystem::path(TRESTLE_TEST_DATA) / "checkpoint/frozen";
/// The first, and one with what was added since: topology, epoch and index.h5.
const std::filesystem::path kFirst = kFolder / "version1/step-00000007",
                            kAdditions = kFolder / "version1_additions/step-00000009";

/// Every dtype and the shapes that are easy to get wrong, with values that need no generator.
struct FrozenState {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  std::int64_t count = 0;
  double rate = 0, lowest = 0;
  std::string note;

  enum class Filled { no, yes };
  explicit FrozenState(Filled filled) {
    const auto add = [&](const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
      std::int64_t numel = 1;
      for (const auto side : shape) numel *= side;
      at::Tensor values = at::arange(numel, at::kDouble).sub_(double(numel) / 3);
      if (dtype == at::kByte) values = values.abs();
      if (filled == Filled::no) values.zero_();
      tensors.emplace_back(name, values.to(dtype).view(shape));
    };
    add("model/blocks.0.weight", {5, 3}, at::kFloat);
    add("model/blocks.0.bias", {}, at::kFloat);
    add("model/half", {7}, at::kHalf);
    add("model/brain", {2, 2, 3}, at::kBFloat16);
    add("optim/exp_avg/blocks.0.weight", {5, 3}, at::kDouble);
    add("optim/empty", {0, 4}, at::kFloat);
    add("data/ids", {11}, at::kLong);
    add("data/small", {4}, at::kInt);
    add("data/bytes", {9}, at::kByte);
    add("data/mask", {6}, at::kBool);
    if (filled == Filled::no) return;
    count = -9'000'000'000;
    rate = 0.1;
    lowest = -std::numeric_limits<double>::infinity();
    note = "\xC3\xA9 \"quoted\"\n";
  }

  Visitor visitor() {
    return [this](Scope& scope) {
      for (auto& [name, tensor] : tensors) scope.tensor(name, tensor);
      scope.number("trainer/count", count);
      scope.number("trainer/rate", rate);
      scope.number("trainer/lowest", lowest);
      scope.text("trainer/note", note);
    };
  }
};

void expect_frozen_state(const std::filesystem::path& checkpoint, std::int64_t step) {
  FrozenState loaded(FrozenState::Filled::no), expected(FrozenState::Filled::yes);
  EXPECT_EQ(load(checkpoint, loaded.visitor()).step, step);
  for (std::size_t i = 0; i < expected.tensors.size(); ++i) {
    EXPECT_TRUE(at::equal(loaded.tensors[i].second, expected.tensors[i].second))
        << expected.tensors[i].first;
  }
  EXPECT_EQ(loaded.count, expected.count);
  EXPECT_EQ(loaded.rate, expected.rate);
  EXPECT_EQ(loaded.lowest, expected.lowest);
  EXPECT_EQ(loaded.note, expected.note);
}

TEST(FrozenVersion1, LoadsToTheBit) {
  expect_frozen_state(kFirst, 7);
  expect_frozen_state(kAdditions, 9);
}

TEST(FrozenVersion1, IsWhole) {
  for (const auto& checkpoint : {kFirst, kAdditions}) {
    EXPECT_EQ(newest(checkpoint.parent_path()), checkpoint);
    EXPECT_TRUE(verify(checkpoint).empty());
    const Manifest manifest = read_manifest(checkpoint);
    EXPECT_EQ(manifest.world, 2);
    EXPECT_EQ(manifest.recipe_toml, "[run]\ntask = \"frozen\"\n");
  }
}

TEST(FrozenVersion1, HasWhatWasAddedOrDoesNotSayIt) {
  const Manifest first = read_manifest(kFirst), additions = read_manifest(kAdditions);
  EXPECT_FALSE(first.topology);
  EXPECT_EQ(first.epoch, 0);
  EXPECT_EQ(additions.topology, (TopologyRecord{.host_of_rank = {0, 1}, .levels = 2}));
  EXPECT_EQ(additions.epoch, 3);
  EXPECT_EQ(additions.files.back().name, kIndexName);
}

}  // namespace
}  // namespace trestle::checkpoint
