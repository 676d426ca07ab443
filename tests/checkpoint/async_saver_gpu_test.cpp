// Saving a state that lives on a GPU and goes on changing there.
#include "checkpoint/async_saver.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "tests/support/scratch.h"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

namespace trestle::checkpoint {
namespace {

TEST(AsyncSaverGpu, WhatIsSavedIsWhatTheStreamHadMadeAtTheBegin) {
  if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0) GTEST_SKIP() << "no GPU";
  const testing::ScratchFolder folder;
  const c10::impl::VirtualGuardImpl device(c10::DeviceType::CUDA);
  const c10::StreamGuard stream(device.getStreamFromGlobalPool(c10::Device(at::kCUDA, 0)));
  at::Tensor matrix = at::ones({2048, 2048}, at::TensorOptions().device(at::kCUDA));
  at::Tensor state = at::zeros({5'000'000}, at::TensorOptions().device(at::kCUDA));
  for (int i = 0; i < 50; ++i) matrix = at::mm(matrix, matrix) * 1e-4f;  // keeps the stream busy
  state.add_(7);
  const auto visit = [&](Scope& root) { root.at_stage(0).tensor("state", state); };
  AsyncSaver saver({});
  SaveRequest request;
  request.folder = folder.path();
  request.step = 1;
  saver.begin(collect(visit), request);
  saver.before_change(0);
  state.fill_(-1);
  settle(saver, *dist::make_collectives(dist::Communicator::self()));
  ASSERT_TRUE(saver.take_result()->sealed);
  load(folder.path() / "step-00000001", visit);
  EXPECT_TRUE(at::equal(state, at::full_like(state, 7)));
}

}  // namespace
}  // namespace trestle::checkpoint
