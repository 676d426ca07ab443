// Bytes of tensors, counted where they have memory and where they have none.
#include "base/torch/tensor_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <thread>

namespace trestle {
namespace {

TEST(TensorMemory, CountsWhatIsAliveAndTheMostAtOnce) {
  for (const auto device : {at::kCPU, at::kMeta}) {
    const TensorMemory memory(device);
    const auto options = at::TensorOptions().device(device).dtype(at::kFloat);
    const at::Tensor kept = at::empty({1000}, options);
    { const at::Tensor gone = kept + at::empty({1000}, options); }
    EXPECT_EQ(memory.live_bytes(), 4000) << at::DeviceTypeName(device);
    EXPECT_EQ(memory.peak_bytes(), 12000) << at::DeviceTypeName(device);
  }
}

TEST(TensorMemory, NeedsNoMemoryForTensorsWithoutValues) {
  const TensorMemory memory(at::kMeta);
  const at::Tensor huge = at::zeros({1 << 20, 1 << 20}, at::TensorOptions().device(at::kMeta));
  EXPECT_EQ(memory.live_bytes(), std::int64_t{4} << 40);
}

TEST(TensorMemory, ATensorMayOutliveTheCounting) {
  at::Tensor later;
  {
    const TensorMemory memory(at::kCPU);
    later = at::ones({10});
  }
  EXPECT_EQ(later.sum().item<float>(), 10);
}

TEST(TensorMemory, TellsThreadsApart) {
  const TensorMemory mine(at::kCPU, TensorMemory::Of::this_thread);
  at::Tensor made_here = at::empty({100});
  std::jthread([moved = std::move(made_here)]() mutable {
    const TensorMemory theirs(at::kCPU, TensorMemory::Of::this_thread);
    const at::Tensor other = at::empty({1000});
    EXPECT_EQ(theirs.live_bytes(), 4000);
    moved.reset();
    EXPECT_EQ(theirs.live_bytes(), 4000);
  }).join();
  EXPECT_EQ(mine.live_bytes(), 0);
  EXPECT_EQ(mine.peak_bytes(), 400);
}

}  // namespace
}  // namespace trestle
