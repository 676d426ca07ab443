// A task whose loss looks at the samples of all ranks, through the engine and beside the plain
// step: any number of ranks gives the same weights as one, in every shard mode.
#include "base/log.h"
#include "dist/simulated.h"
#include "trainers/paranoid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <mutex>

// Axes: b samples of a rank, B of all, d width.

namespace trestle::trainers {
namespace {

constexpr std::int64_t kWidth = 4;

class Vectors : public data::Dataset {
 public:
  std::int64_t size() const override { return 30; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    std::vector<Position> rows;
    for (const auto id : ids) rows.push_back({id});
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"x", Draws(7).normal(rows, Purpose("x"), {kWidth}, at::kDouble)}};
    return batch;
  }
};

/// A contrastive loss: every sample is told from all others of the global batch. The second of its
/// parameters comes after the exchange, and so is reached by backward before it.
class Contrast : public Task {
 public:
  bool exchanges() const override { return true; }
  std::vector<ParameterGroup> groups() override {
    return {{.name = "g", .parameters = {{"before", before_dd_}, {"after", after_dd_}}}};
  }
  const data::Dataset& dataset(Split) override { return vectors_; }
  LossReport loss(const Objective&, const data::Batch& batch, const StepContext& context) override {
    at::Tensor own_bd = at::tanh(batch.tensor("x").mm(before_dd_));
    if (spoiled == context.step.value) own_bd = own_bd / 0.0;
    const at::Tensor centred_bd = own_bd - context.exchange.global_mean(own_bd);
    const at::Tensor all_Bd = context.exchange.gather_samples(centred_bd).mm(after_dd_);
    const at::Tensor scores_bB = centred_bd.mm(after_dd_).mm(all_Bd.t());
    const at::Tensor loss_b = scores_bB.logsumexp(1) - (centred_bd * own_bd).sum(1);
    return {.terms = {{.name = "contrast", .per_sample = loss_b}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest&, const Draws&) override { return {}; }

  std::int64_t spoiled = -1;  ///< the step in which this rank's features are not finite

 private:
  static at::Tensor start(std::string_view name) {
    return Draws(1)
        .normal(Purpose(name), {kWidth, kWidth}, at::TensorOptions().dtype(at::kDouble))
        .requires_grad_(true);
  }
  Vectors vectors_;
  at::Tensor before_dd_ = start("before"), after_dd_ = start("after");
};

struct Result {
  at::Tensor weights;
  std::vector<std::string> not_finite;
};

Result train(int ranks, dist::ShardMode shard, std::int64_t global_batch, std::int64_t micro_batch,
             int spoiled_rank = -1) {
  set_log_level(LogLevel::error);
  Result result;
  std::mutex mutex;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    Contrast task;
    if (world.rank() == spoiled_rank) task.spoiled = 1;
    const auto gradients = dist::make_collectives(world), plain = dist::make_collectives(world);
    const EngineOptions options{.reducer = {.shard = shard},
                                .bucket_bytes = 4,
                                .max_grad_norm = 0.5,
                                .averages = {},
                                .every_group = {.adamw = {.learning_rate = 0.01}, .schedule = {}},
                                .groups = {}};
    Engine engine(task, *gradients, options);
    Paranoid paranoid(task, engine, *plain, options);
    const auto exchange = make_exchange(world);
    const data::Dataset& vectors = task.dataset(Split::train);
    const data::Sampler sampler(3, vectors.size());
    const data::BatchPlan plan(global_batch, micro_batch, world.rank(), world.size());
    const Draws draws(3);
    data::BadSamples bad(0);
    Result mine;
    for (std::int64_t step = 0; step < 3; ++step) {
      const KindCounts kinds = count_kinds(vectors, sampler, plan.global_batch({step}));
      std::int64_t micro = 0;
      const auto next_batch = [&] {
        const auto positions = plan.micro_batch({step}, micro++);
        std::vector<data::SampleId> ids;
        for (const auto position : positions) ids.push_back(sampler.at(position));
        data::Batch batch = vectors.load(ids);
        batch.positions = positions;
        return batch;
      };
      mine.not_finite.push_back(paranoid
                                    .step({.step = {step},
                                           .draws = draws,
                                           .kinds = kinds,
                                           .micro_steps = plan.micro_steps(),
                                           .next_batch = next_batch,
                                           .bad_samples = bad,
                                           .exchange = *exchange})
                                    .not_finite());
    }
    engine.wait();
    std::vector<at::Tensor> flat;
    for (const auto& parameter : engine.parameters())
      flat.push_back(parameter.tensor.detach().flatten());
    mine.weights = at::cat(flat);
    const std::lock_guard lock(mutex);
    if (!result.weights.defined()) result = mine;
    EXPECT_TRUE(at::equal(mine.weights, result.weights)) << "rank " << world.rank();
    EXPECT_EQ(mine.not_finite, result.not_finite);
  });
  return result;
}

constexpr dist::ShardMode kModes[] = {dist::ShardMode::none, dist::ShardMode::optimizer,
                                      dist::ShardMode::gradients};

TEST(ExchangingTask, AnyNumberOfRanksIsOneRank) {
  const at::Tensor one = train(1, dist::ShardMode::none, 11, 11).weights;
  for (const auto shard : kModes) {
    for (int ranks = 2; ranks <= 4; ++ranks) {  // 11 divides by none of them
      const at::Tensor many = train(ranks, shard, 11, 11).weights;
      EXPECT_LT(((many - one).norm() / one.norm()).item<double>(), 1e-13) << ranks << " ranks";
    }
  }
}

TEST(ExchangingTask, MicroBatchesGoThroughTogether) {
  for (const auto shard : kModes) train(3, shard, 12, 2);
}

TEST(ExchangingTask, ARankWithoutAFiniteLossStillTakesPartInBackward) {
  const Result clean = train(3, dist::ShardMode::optimizer, 12, 2);
  for (const auto shard : kModes) {
    const Result spoiled = train(3, shard, 12, 2, /*spoiled_rank=*/1);
    EXPECT_EQ(spoiled.not_finite[0], "");
    EXPECT_NE(spoiled.not_finite[1].find("step 1: the loss is"), std::string::npos)
        << spoiled.not_finite[1];
    EXPECT_EQ(spoiled.not_finite[2], "");
    EXPECT_FALSE(at::equal(spoiled.weights, clean.weights));
    EXPECT_TRUE(spoiled.weights.isfinite().all().item<bool>());
  }
}

TEST(ExchangingTask, AFailureInsideItsLossDoesNotWaitForOthers) {
  class Failing : public Contrast {
   public:
    LossReport loss(const Objective& objective, const data::Batch& batch,
                    const StepContext& context) override {
      if (fails) fail(ExitCode::data, "no such caption");
      return Contrast::loss(objective, batch, context);
    }
    bool fails = false;
  };
  try {
    dist::simulate(2, [&](const dist::Communicator& world) {
      Failing task;
      task.fails = world.rank() == 1;
      const auto gradients = dist::make_collectives(world);
      Engine engine(task, *gradients, {});
      const auto exchange = make_exchange(world);
      const Draws draws(3);
      data::BadSamples bad(0);
      const data::SampleId id = world.rank();
      const KindCounts kinds{{"all", 2}};
      engine.step({.step = {0},
                   .draws = draws,
                   .kinds = kinds,
                   .next_batch =
                       [&] {
                         return task.dataset(Split::train).load({&id, 1});
                       },
                   .bad_samples = bad,
                   .exchange = *exchange});
    });
    FAIL();
  } catch (const Error& error) {  // rank 1's own; nobody agreed on it
    EXPECT_STREQ(error.what(), "no such caption");
  }
}

}  // namespace
}  // namespace trestle::trainers
