// One rank that differs is named, with the first parameter in which it does.
#include "dist/same_parameters.h"

#include "dist/simulated.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <mutex>

namespace trestle::dist {
namespace {

using Leaves = std::vector<NamedLeaf>;

/// What all ranks are told when `spoil` has changed what `rank` of `ranks` holds; empty: nothing.
std::string told(int ranks, int rank, const std::function<void(Leaves&)>& spoil) {
  std::string message;
  std::mutex mutex;
  int thrown = 0;
  simulate(ranks, [&](const Communicator& world) {
    Leaves leaves = {{"first", at::arange(5, at::kFloat)},
                     {"second", at::arange(6, at::kBFloat16).view({2, 3})},
                     {"third", at::zeros({0}, at::kDouble)}};
    if (world.rank() == rank) spoil(leaves);
    try {
      require_same_parameters(world, leaves, "step 7", ExitCode::numbers);
    } catch (const AgreedError& error) {
      const std::lock_guard lock(mutex);
      EXPECT_EQ(error.code(), ExitCode::numbers);
      if (thrown++ > 0) {
        EXPECT_EQ(message, error.what());
      }
      message = error.what();
    }
  });
  EXPECT_TRUE(thrown == 0 || thrown == ranks);
  return message;
}

TEST(SameParameters, EqualOnesPass) {
  EXPECT_EQ(told(4, 0, [](Leaves&) {}), "");
  EXPECT_EQ(told(1, 0, [](Leaves& leaves) { leaves[0].tensor[0] = 3; }), "");
}

TEST(SameParameters, ABitIsEnough) {
  const auto spoil = [](Leaves& leaves) { leaves[1].tensor[1][2] = -leaves[1].tensor[1][2]; };
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_NE(
        told(3, rank, spoil).find(fmt::format("step 7: rank {} has other values in second", rank)),
        std::string::npos);
  }
  const auto zero_sign = [](Leaves& leaves) { leaves[0].tensor[0] = -0.0; };
  EXPECT_NE(told(3, 2, zero_sign).find("rank 2 has other values in first"), std::string::npos);
}

TEST(SameParameters, NamesShapesDtypesAndNumber) {
  const auto has = [](const std::string& text, const std::string& words) {
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  has(told(3, 1, [](Leaves& l) { l[0].name = "other"; }),
      "rank 1 has other where others have first");
  has(told(3, 1,
           [](Leaves& l) {
             l[1].tensor = l[1].tensor.view({3, 2});
           }),
      "rank 1 has second as BFloat16 [3, 2], others as BFloat16 [2, 3]");
  has(told(3, 1, [](Leaves& l) { l[2].tensor = l[2].tensor.to(at::kFloat); }),
      "has third as Float [0], others as Double [0]");
  has(told(3, 1, [](Leaves& l) { l.pop_back(); }), "rank 1 has 2 parameters, others 3");
}

}  // namespace
}  // namespace trestle::dist
