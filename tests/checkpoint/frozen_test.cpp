// Version 1 of the format is frozen: tests/checkpoint/frozen/version1 was written once, by two
// ranks, and has to load for ever. A change that breaks this test breaks people's checkpoints;
// never write the folder anew.
#include "checkpoint/load.h"
#include "checkpoint/save.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace trestle::checkpoint {
namespace {

const std::filesystem::path kFrozen =
    std::filesystem::path(TRESTLE_TEST_DATA) / "checkpoint/frozen/version1/step-00000007";

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

TEST(FrozenVersion1, LoadsToTheBit) {
  FrozenState loaded(FrozenState::Filled::no), expected(FrozenState::Filled::yes);
  EXPECT_EQ(load(kFrozen, loaded.visitor()).step, 7);
  for (std::size_t i = 0; i < expected.tensors.size(); ++i) {
    EXPECT_TRUE(at::equal(loaded.tensors[i].second, expected.tensors[i].second))
        << expected.tensors[i].first;
  }
  EXPECT_EQ(loaded.count, expected.count);
  EXPECT_EQ(loaded.rate, expected.rate);
  EXPECT_EQ(loaded.lowest, expected.lowest);
  EXPECT_EQ(loaded.note, expected.note);
}

TEST(FrozenVersion1, IsWhole) {
  EXPECT_EQ(newest(kFrozen.parent_path()), kFrozen);
  const Manifest manifest = read_manifest(kFrozen);
  EXPECT_EQ(manifest.world, 2);
  EXPECT_EQ(manifest.recipe_toml, "[run]\ntask = \"frozen\"\n");
}

}  // namespace
}  // namespace trestle::checkpoint
