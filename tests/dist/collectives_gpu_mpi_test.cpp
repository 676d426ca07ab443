// Collectives over NCCL, one rank a process. Where the machine has fewer GPUs than ranks, they
// share them (dist/gpu_assignment.h): right results, and nothing to be said about speed.
#include "dist/nccl_collectives.h"
#include "dist/operation_observer.h"
#include "tests/dist/collective_cases.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <thread>

namespace trestle::dist {
namespace {

using namespace testing_cases;

class NcclCollectives : public testing::Test {
 protected:
  void SetUp() override {
    const Communicator world = Communicator::world();
    std::array<int64_t, 1> gpus{static_cast<int64_t>(visible_gpus().uuids.size())};
    world.all_reduce(gpus, ReduceOp::min);
    if (gpus[0] == 0) GTEST_SKIP() << "no GPU";
    if (world.size() > gpus[0]) options.sharing = GpuSharing::for_tests;
    device = choose_gpu(world, options.sharing);
    site = {.device = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device)),
            .sums_in_rank_order = false,
            .another = [this](const Communicator& ranks) { return over_nccl(ranks); }};
  }

  std::unique_ptr<Collectives> over_nccl(const Communicator& ranks) const {
    auto collectives = make_nccl_collectives(ranks, device, options);
    // NCCL connects at the first use. A GPU that already waits for a peer may have no room for
    // that.
    at::Tensor first = site.place(at::ones({1}));
    collectives->all_reduce(first, ReduceOp::sum).wait_on_host();
    return collectives;
  }

  NcclOptions options{.set_up_timeout_s = 60};
  int device = 0;
  Site site;
};

class EveryCollectives : public NcclCollectives,
                         public testing::WithParamInterface<CollectiveCase> {};

TEST_P(EveryCollectives, OverNccl) { GetParam().run(*over_nccl(Communicator::world()), site); }

INSTANTIATE_TEST_SUITE_P(Cases, EveryCollectives, testing::ValuesIn(kCollectiveCases),
                         [](const auto& info) { return info.param.name; });

TEST_F(NcclCollectives, SumsHaveTheSameBitsOnEveryRank) {
  const auto collectives = over_nccl(Communicator::world());
  const Communicator& world = collectives->communicator();
  for (const int64_t count : {7, 4'099, 1'000'003}) {
    at::Tensor values = site.place(contribution(world.rank(), count, at::kFloat));
    collectives->all_reduce(values, ReduceOp::sum).wait();
    const at::Tensor host = values.cpu();
    const auto everyones =
        world.all_gather_bytes({static_cast<const char*>(host.data_ptr()), host.nbytes()});
    for (const std::string& bytes : everyones) EXPECT_EQ(bytes, everyones[0]) << count;
  }
}

TEST_F(NcclCollectives, NanSurvivesEveryReduction) {
  const auto collectives = over_nccl(Communicator::world());
  const Communicator& world = collectives->communicator();
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    at::Tensor values = at::full({world.size()}, 1.0f);
    values[world.rank()] = NAN;
    const at::Tensor in = site.place(values);
    at::Tensor all = in.clone(), mine = at::zeros({1}, in.options());
    collectives->all_reduce(all, op).wait();
    collectives->reduce_scatter(in, mine, op).wait();
    EXPECT_TRUE(all.isnan().all().item<bool>());
    EXPECT_TRUE(mine.isnan().all().item<bool>());
  }
}

TEST_F(NcclCollectives, LargeTensorsPassThroughStaging) {
  // More than the staging memory holds, the last round short; exact in both types.
  const auto collectives = over_nccl(Communicator::world());
  const int rank = collectives->communicator().rank(), size = collectives->communicator().size();
  const int64_t count = (int64_t{20} << 20) / size + 13;
  const auto options = at::TensorOptions(site.device);
  const at::Tensor numbers = at::arange(size * count, options.dtype(at::kInt)).remainder(100);
  const at::Tensor in = (numbers + rank).to(at::kBFloat16);
  at::Tensor out = at::zeros({count}, options);
  collectives->reduce_scatter(in, out, ReduceOp::sum).wait();
  const at::Tensor expected = numbers.narrow(0, rank * count, count) * size + size * (size - 1) / 2;
  EXPECT_TRUE(out.eq(expected).all().item<bool>());

  at::Tensor largest = (numbers + rank).to(at::kDouble);
  collectives->all_reduce(largest, ReduceOp::max).wait();
  EXPECT_TRUE(largest.eq(numbers + (size - 1)).all().item<bool>());
}

TEST_F(NcclCollectives, ResultsFollowTheStreamsOfTheCaller) {
  // Input written, output read, by the current stream, with no synchronisation between: a missing
  // event shows in the values.
  const auto collectives = over_nccl(Communicator::world());
  const int size = collectives->communicator().size();
  const auto options = at::TensorOptions(site.device);
  at::Tensor busy = at::ones({2048, 2048}, options);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 5; ++i) busy = at::mm(busy, busy).clamp(0, 1);
    at::Tensor values = at::full({1 << 20}, round, options) * busy[0][0];
    Work work = collectives->all_reduce(values, ReduceOp::sum);
    work.wait();
    const at::Tensor doubled = values * 2;
    EXPECT_TRUE(doubled.eq(2 * size * round).all().item<bool>()) << "round " << round;
  }
}

TEST_F(NcclCollectives, ADroppedTensorLivesUntilTheGpuIsDone) {
  const auto collectives = over_nccl(Communicator::world());
  const int size = collectives->communicator().size();
  const auto options = at::TensorOptions(site.device);
  at::Tensor out = at::zeros({size, 1 << 20}, options);
  for (int round = 0; round < 10; ++round) {
    Work work = collectives->all_gather(at::full({1 << 20}, round, options), out);
    // The caching allocator would hand the input's memory to this one.
    at::Tensor other = at::full({1 << 20}, -1, options);
    work.wait();
    EXPECT_TRUE(out.eq(round).all().item<bool>()) << "round " << round;
  }
}

TEST_F(NcclCollectives, WaitOnHostIsEnoughForAnotherStream) {
  const auto collectives = over_nccl(Communicator::world());
  const int size = collectives->communicator().size();
  at::Tensor values = site.place(at::full({1 << 20}, 3.0f));
  Work work = collectives->all_reduce(values, ReduceOp::sum);
  work.wait_on_host();
  std::jthread([&] { EXPECT_TRUE(values.eq(3.0f * size).all().item<bool>()); }).join();
}

class Ears : public OperationObserver {
 public:
  std::uint64_t queued(const OperationInfo& operation) override {
    if (operation.channel_name != "gradients" || operation.name != "bucket 3") return 0;
    bytes = operation.bytes;
    return 1;
  }
  void started(std::uint64_t id) override { has_started |= id == 1; }
  void finished(std::uint64_t id) override {
    if (id == 1 && has_started) has_finished = true;
  }

  int64_t bytes = 0;
  bool has_started = false;
  std::atomic<bool> has_finished = false;
};

TEST_F(NcclCollectives, ObserversHearOfEveryOperation) {
  const Communicator world = Communicator::world();
  const auto collectives = make_nccl_collectives(world, device, options, "gradients");
  Ears ears;
  world.observe(&ears);
  at::Tensor values = site.place(at::ones({1000}));
  collectives->all_reduce(values, ReduceOp::sum, "bucket 3").wait_on_host();
  for (int i = 0; i < 500 && !ears.has_finished; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(ears.has_finished);
  EXPECT_EQ(ears.bytes, 4000);
  world.observe(nullptr);
}

TEST_F(NcclCollectives, UnwindingDoesNotWaitForRanksThatNeverCome) {
  const Communicator world = Communicator::world();
  try {
    const auto collectives = over_nccl(world);
    at::Tensor values = site.place(at::ones({1000}));
    Work work;
    if (world.rank() == 0) work = collectives->all_reduce(values, ReduceOp::sum);
    throw std::runtime_error("in between");
  } catch (const std::runtime_error&) {
  }
  world.barrier();
  at::Tensor values = site.place(at::ones({3}));
  over_nccl(world)->all_reduce(values, ReduceOp::sum).wait();
  EXPECT_TRUE(values.eq(world.size()).all().item<bool>());
}

}  // namespace
}  // namespace trestle::dist
