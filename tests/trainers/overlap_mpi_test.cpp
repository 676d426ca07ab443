// Gradients are summed while backward still computes. Backward itself looks: before it computes the
// last gradient it reads the flight ring and waits until a bucket has been summed, so how fast the
// machine is and what else runs on it do not matter. Without overlap it would wait for ever.
#include "dist/flight_ring.h"
#include "models/nn/checkpointed_call.h"
#include "trainers/engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace trestle::trainers {
namespace {

constexpr std::int64_t kWidth = 4096;
constexpr int kLayers = 8;

/// Layers in a row, each a checkpointed segment if wanted, the last two of which use the last one's
/// parameter.
class Layers : public Task, data::Dataset {
 public:
  /// `before_last_gradient` is called by backward when the gradients of all layers but the first
  /// are there.
  Layers(bool checkpointed, std::function<void()> before_last_gradient)
      : checkpointed_(checkpointed), before_last_gradient_(std::move(before_last_gradient)) {
    const Draws draws(1);
    for (int i = 0; i < kLayers; ++i) {
      const std::string name = fmt::format("layer{}", i);
      layers_.push_back(
          {name, draws.normal(Purpose(name), {kWidth}, at::TensorOptions()).requires_grad_(true)});
    }
  }

  std::vector<ParameterGroup> groups() override {
    return {{.name = "layers", .parameters = layers_}};
  }
  const data::Dataset& dataset(Split) override { return *this; }
  LossReport loss(const Objective&, const data::Batch& batch, const StepContext&) override {
    const at::Tensor first = layers_[0].tensor.view({kWidth});
    first.register_hook([this](const at::Tensor&) { before_last_gradient_(); });
    at::Tensor h = (batch.tensor("x") * first).tanh();
    for (std::size_t i = 1; i < kLayers; ++i) {
      const models::nn::Segment segment = [this, i](const models::nn::Tensors& in,
                                                    const std::any&) -> models::nn::Tensors {
        at::Tensor product = in[0] * layers_[i].tensor;
        if (i + 2 == kLayers) product = product * layers_.back().tensor;
        return {product.tanh()};
      };
      h = checkpointed_ ? models::nn::checkpointed_call(segment, {h})[0] : segment({h}, {})[0];
    }
    return {.terms = {{.name = "all", .per_sample = h.sum(1)}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest&, const Draws&) override { return {}; }

  std::int64_t size() const override { return 16; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"x", at::ones({std::int64_t(ids.size()), kWidth})}};
    return batch;
  }

 private:
  bool checkpointed_;
  std::function<void()> before_last_gradient_;
  std::vector<NamedParameter> layers_;
};

/// What the ring shows to be summed over the ranks in a step, by name.
std::vector<std::string> summed(const dist::FlightRing& ring, std::int64_t step) {
  std::vector<std::string> names;
  ring.write_jsonl([&](std::string_view line) {
    const auto entry = nlohmann::json::parse(line);
    const auto name = entry.at("name").get<std::string>();
    const bool is_sum = name == "late gradient" || name.starts_with("layers bucket ");
    if (is_sum && entry.at("kind") != "all_gather" && entry.at("step") == step &&
        !entry.at("finished_s").is_null())
      names.push_back(name);
  });
  return names;
}

using Clock = std::chrono::steady_clock;

/// Trains a few steps and looks into the ring in the middle of each backward.
void expect_overlap(dist::ShardMode shard, bool checkpointed, Clock::time_point deadline) {
  constexpr std::int64_t kSteps = 5, kSamples = 2;
  const dist::Communicator world = dist::Communicator::world();
  dist::FlightRing ring(1000, world.size());
  Step step;
  std::vector<std::string> seen;
  Layers task(checkpointed, [&] {
    if (step.value == 0) return;  // the first step learns how gradients arrive
    while (seen = summed(ring, step.value), seen.empty() && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const auto collectives = dist::make_collectives(world, "gradients");
  EngineOptions options;
  options.reducer.shard = shard;
  options.bucket_bytes = 4 * kWidth;
  Engine engine(task, *collectives, options);
  const std::string last = fmt::format("layers bucket {}", engine.buckets() - 1);
  ASSERT_GT(engine.buckets(), 2u);
  world.observe(&ring);
  for (; step.value < kSteps; ++step.value) {
    const dist::PhaseScope in_step(&ring, dist::Phase::step, step.value);
    data::Batch batch = task.load(std::vector<data::SampleId>{0, 1});
    for (std::int64_t i = 0; i < kSamples; ++i)
      batch.positions.push_back({kSamples * (world.rank() + world.size() * step.value) + i});
    const Draws draws(1);
    data::BadSamples bad(0);
    const KindCounts kinds = {{"all", kSamples * world.size()}};
    seen.clear();
    engine.step({.step = step,
                 .draws = draws,
                 .kinds = kinds,
                 .next_batch = [&] { return batch; },
                 .bad_samples = bad});
    if (step.value == 0) continue;
    EXPECT_FALSE(seen.empty()) << "step " << step.value << ": nothing was summed in backward";
    EXPECT_EQ(std::ranges::count(seen, last), 0) << "its gradients were not there yet";
    // Every bucket waited for all of its gradients.
    EXPECT_EQ(std::ranges::count(summed(ring, step.value), "late gradient"), 0);
  }
  engine.wait();
  world.observe(nullptr);
}

TEST(Overlap, BucketsAreSummedBeforeBackwardEnds) {
  const auto deadline = Clock::now() + std::chrono::seconds(60);  // of what takes a second
  for (const auto shard :
       {dist::ShardMode::none, dist::ShardMode::optimizer, dist::ShardMode::gradients}) {
    expect_overlap(shard, /*checkpointed=*/false, deadline);
    expect_overlap(shard, /*checkpointed=*/true, deadline);
  }
}

}  // namespace
}  // namespace trestle::trainers
