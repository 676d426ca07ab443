// The fused pass over shards against AdamW and Ema, whose bits it has, however shards are cut; and
// the protocol of rounds, driven by an optimizer that needs one.
#include "trainers/optim/shard_optimizer.h"

#include "base/torch/draws.h"
#include "dist/simulated.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/optim/ema_decay.h"
#include "trainers/optim/fused_adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace trestle::trainers {
namespace {

using models::nn::Init;
using models::nn::Parameters;

constexpr int kSteps = 20;
constexpr double kLearningRate = 1e-2;
constexpr double kGradientScale = 0.37;
constexpr std::array kDecays = {0.9, 0.3, 0.999};
const AdamWOptions kOptions{.learning_rate = kLearningRate,
                            .adam_beta1 = 0.8,
                            .adam_beta2 = 0.95,
                            .adam_epsilon = 1e-6,
                            .weight_decay = 0.1};

/// Normal numbers, others for each offset: pieces of one long row, drawn once.
at::Tensor random(std::int64_t offset, std::int64_t size, at::ScalarType dtype) {
  static const at::Tensor row = Draws(2).normal(Purpose("row"), {1 << 17}, at::kDouble);
  return row.slice(0, offset, offset + size).to(dtype, false, true);
}
constexpr std::int64_t kInitial = kSteps;  // offset of the weights; a step's gradient has its own

/// The whole state of `size` elements as one shard.
Shard make_shard(const at::Tensor& initial, std::size_t averages, at::ScalarType parameter_dtype) {
  Shard shard{.master = initial.clone(),
              .gradient = at::zeros_like(initial),
              .state = {at::zeros_like(initial), at::zeros_like(initial)},
              .averages = {},
              .parameter = at::empty_like(initial, initial.options().dtype(parameter_dtype))};
  for (std::size_t i = 0; i < averages; ++i)
    shard.averages.push_back({.values = initial.clone(), .decay = 0});
  return shard;
}

Shard piece(const Shard& whole, std::int64_t begin, std::int64_t end) {
  const auto cut = [&](const at::Tensor& plane) { return plane.slice(0, begin, end); };
  Shard part{.master = cut(whole.master),
             .gradient = cut(whole.gradient),
             .state = {},
             .averages = {},
             .parameter = cut(whole.parameter)};
  for (const auto& plane : whole.state) part.state.push_back(cut(plane));
  for (const auto& average : whole.averages)
    part.averages.push_back({.values = cut(average.values), .decay = average.decay});
  return part;
}

/// Steps the shard kSteps times, cut at these borders.
void run(Shard& whole, const std::vector<std::int64_t>& borders = {}) {
  const FusedAdamW optimizer(kOptions);
  for (int step = 0; step < kSteps; ++step) {
    whole.gradient.copy_(random(step, whole.master.numel(), whole.master.scalar_type()));
    for (std::size_t i = 0; i < whole.averages.size(); ++i)
      whole.averages[i].decay = ema_decay({.decay = kDecays[i]}, step);
    const StepScalars scalars{.learning_rate = kLearningRate / (1 + step),
                              .gradient_scale = kGradientScale,
                              .count = step + 1,
                              .zero_gradient = step % 2 == 0,
                              .sums = {}};
    std::int64_t begin = 0;
    for (const std::int64_t end : borders) {
      optimizer.step(piece(whole, begin, end), scalars);
      begin = end;
    }
    optimizer.step(piece(whole, begin, whole.master.numel()), scalars);
  }
}

void expect_same_bits(const Shard& a, const Shard& b) {
  EXPECT_TRUE(at::equal(a.master, b.master));
  EXPECT_TRUE(at::equal(a.gradient, b.gradient));
  EXPECT_TRUE(at::equal(a.parameter, b.parameter));
  for (std::size_t i = 0; i < a.state.size(); ++i)
    EXPECT_TRUE(at::equal(a.state[i], b.state[i])) << i;
  for (std::size_t i = 0; i < a.averages.size(); ++i)
    EXPECT_TRUE(at::equal(a.averages[i].values, b.averages[i].values)) << i;
}

/// What AdamW and Ema make of the same gradients.
void expect_bits_of_the_definition(const Shard& shard, const at::Tensor& initial) {
  const std::int64_t size = initial.numel();
  Parameters parameters(initial.options(), Draws(1));
  const at::Tensor p = parameters.add("p", {size}, Init::zeros());
  p.detach().copy_(initial);
  AdamW adamw(parameters.all(), kOptions);
  std::vector<Ema> emas;
  for (std::size_t i = 0; i < shard.averages.size(); ++i)
    emas.emplace_back(parameters.all(), EmaOptions{.decay = kDecays[i]});
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor gradient = random(step, size, initial.scalar_type());
    adamw.step(kLearningRate / (1 + step), kGradientScale, {&gradient, 1});
    for (Ema& ema : emas) ema.update();
  }
  EXPECT_FALSE(at::equal(shard.master, initial));
  EXPECT_TRUE(at::equal(shard.master, p.detach()));
  const auto tree =
      checkpoint::collect([&](checkpoint::Scope& scope) { adamw.state(scope, scope); });
  const auto names = FusedAdamW(kOptions).state_names();
  ASSERT_EQ(tree.tensors.size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(tree.tensors[i].name, "p/" + std::string(names[i]));
    EXPECT_TRUE(at::equal(shard.state[i], tree.tensors[i].tensor)) << names[i];
  }
  for (std::size_t i = 0; i < emas.size(); ++i) {
    const at::Tensor average = emas[i].averages().front();
    EXPECT_TRUE(at::equal(shard.averages[i].values, average))
        << "average " << i << " differs by "
        << (shard.averages[i].values - average).abs().max().item<double>();
  }
}

TEST(FusedAdamW, HasTheBitsOfAdamWAndEma) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const std::int64_t size : {1, 63, 64, 65, 100003}) {
      for (const std::size_t averages : {0, 1, 3}) {
        SCOPED_TRACE(fmt::format("{} {} {}", at::toString(dtype), size, averages));
        const at::Tensor initial = random(kInitial, size, dtype);
        Shard shard = make_shard(initial, averages, dtype);
        run(shard);
        expect_bits_of_the_definition(shard, initial);
        EXPECT_TRUE(at::equal(shard.parameter, shard.master));
      }
    }
  }
}

TEST(FusedAdamW, WritesBfloat16ToTheNearestEven) {
  Shard shard = make_shard(random(kInitial, 100003, at::kFloat), 1, at::kBFloat16);
  run(shard);
  EXPECT_TRUE(at::equal(shard.parameter, shard.master.to(at::kBFloat16)));

  // No gradient, no decay: the master is rounded as it stands. Ties, the largest float, subnormals.
  const at::Tensor edges =
      at::tensor({0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0x7f800000,
                  0x00008000, 0x00018000, int(0x80000000), int(0xbf818000)},
                 at::kInt)
          .view(at::kFloat);
  Shard still = make_shard(edges, 0, at::kBFloat16);
  FusedAdamW(AdamWOptions{.weight_decay = 0})
      .step(still, {.learning_rate = 1, .gradient_scale = 1, .count = 1, .sums = {}});
  EXPECT_TRUE(at::equal(still.master, edges));
  EXPECT_TRUE(
      at::equal(still.parameter.view(at::kShort), edges.to(at::kBFloat16).view(at::kShort)));
  still.master.view(at::kInt).fill_(0x7fffffff);  // a NaN that rounding up would make -0
  FusedAdamW(AdamWOptions{}).step(still, {.learning_rate = 1, .count = 1, .sums = {}});
  EXPECT_TRUE(still.parameter.isnan().all().item<bool>());
}

TEST(FusedAdamW, ZeroesTheGradientOnlyIfAsked) {
  Shard shard = make_shard(at::ones({70}), 0, at::kFloat);
  const FusedAdamW optimizer(kOptions);
  shard.gradient.fill_(2);
  optimizer.step(shard, {.learning_rate = 1, .count = 1, .zero_gradient = false, .sums = {}});
  EXPECT_TRUE(shard.gradient.eq(2).all().item<bool>());
  optimizer.step(shard, {.learning_rate = 1, .count = 2, .zero_gradient = true, .sums = {}});
  EXPECT_TRUE(shard.gradient.eq(0).all().item<bool>());
}

TEST(FusedAdamW, NeedsNoCopyAndNoElements) {
  const at::Tensor initial = random(kInitial, 130, at::kFloat);
  Shard with = make_shard(initial, 1, at::kFloat), without = make_shard(initial, 1, at::kFloat);
  without.parameter = at::Tensor();
  with.gradient.fill_(1);
  without.gradient.fill_(1);
  const FusedAdamW optimizer(kOptions);
  const StepScalars scalars{.learning_rate = 1, .count = 1, .sums = {}};
  optimizer.step(with, scalars);
  optimizer.step(without, scalars);
  EXPECT_TRUE(at::equal(with.master, without.master));
  optimizer.step(make_shard(at::empty({0}), 1, at::kBFloat16), scalars);
}

TEST(FusedAdamW, HasTheSameBitsHoweverShardsAreCut) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const auto copy = dtype == at::kFloat ? at::kBFloat16 : at::kDouble;
    const at::Tensor initial = random(kInitial, 100003, dtype);
    Shard whole = make_shard(initial, 3, copy);
    run(whole);
    for (const std::vector<std::int64_t>& borders :
         {std::vector<std::int64_t>{64}, {128, 6400, 6464, 99968}, {1, 1, 77, 50001, 100002}}) {
      Shard cut = make_shard(initial, 3, copy);
      run(cut, borders);
      expect_same_bits(whole, cut);
    }
  }
}

TEST(FusedAdamW, HasTheSameBitsOnAnyNumberOfThreads) {
  const at::Tensor initial = random(kInitial, 100003, at::kFloat);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  Shard alone = make_shard(initial, 3, at::kBFloat16);
  run(alone);
  for (const int threads : {2, 3}) {
    at::set_num_threads(threads);
    Shard together = make_shard(initial, 3, at::kBFloat16);
    run(together);
    expect_same_bits(alone, together);
  }
  at::set_num_threads(before);
}

TEST(FusedAdamW, RefusesShardsThatDoNotFit) {
  const FusedAdamW optimizer(kOptions);
  const StepScalars scalars{.learning_rate = 1, .count = 1, .sums = {}};
  const Shard good = make_shard(at::ones({64}), 1, at::kBFloat16);
  const auto refuses = [&](const auto& spoil) {
    Shard shard = good;
    spoil(shard);
    EXPECT_ANY_THROW(optimizer.step(shard, scalars));
  };
  refuses([](Shard& shard) { shard.state.pop_back(); });
  refuses([](Shard& shard) { shard.gradient = at::ones({63}); });
  refuses([](Shard& shard) { shard.gradient = at::Tensor(); });
  refuses([](Shard& shard) { shard.gradient = at::ones({64}, at::kDouble); });
  refuses([](Shard& shard) { shard.averages[0].values = at::ones({128}).slice(0, 0, 128, 2); });
  refuses([](Shard& shard) { shard.parameter = at::ones({64}, at::kHalf); });
  refuses([](Shard& shard) { shard = make_shard(at::ones({64}, at::kHalf), 0, at::kHalf); });
  EXPECT_ANY_THROW(optimizer.step(good, {.learning_rate = 1, .count = 0, .sums = {}}));
}

/// Descends along the gradient divided by its norm over all shards of all ranks: one round.
class NormalisedDescent : public Optimizer {
 public:
  std::span<const std::string_view> state_names() const override { return {}; }
  int rounds() const override { return 1; }
  std::size_t sums_of(int) const override { return 1; }
  void contribute(int, std::span<const Shard> shards, const StepScalars& scalars,
                  std::span<double> sums) const override {
    for (const Shard& shard : shards)
      sums[0] += (shard.gradient * scalars.gradient_scale).square().sum(at::kDouble).item<double>();
  }
  void step(const Shard& shard, const StepScalars& scalars) const override {
    const double size = scalars.learning_rate * scalars.gradient_scale / std::sqrt(scalars.sums[0]);
    shard.master.sub_(shard.gradient, size);
  }
};

TEST(Optimizer, WithOneRoundStepsOnAnyRanksAsOnOne) {
  // Gradients are small multiples of 1/8, so that their sums are exact in any order.
  const std::int64_t size = 1000;
  const at::Tensor initial = random(kInitial, size, at::kDouble);
  const at::Tensor gradient = (random(0, size, at::kDouble) * 8).round() / 8;
  const StepScalars scalars{
      .learning_rate = 0.5, .gradient_scale = 0.25, .count = 1, .zero_gradient = false, .sums = {}};
  const NormalisedDescent optimizer;
  const at::Tensor expected =
      initial -
      gradient * (0.5 * 0.25 / std::sqrt((gradient * 0.25).square().sum().item<double>()));
  for (const int ranks : {1, 2, 3, 5}) {
    const at::Tensor result = initial.clone();
    dist::simulate(ranks, [&](const dist::Communicator& world) {
      // Two buckets, each cut over the ranks.
      std::vector<Shard> shards;
      for (const auto& [begin, end] :
           {std::pair<std::int64_t, std::int64_t>{0, 300}, {300, size}}) {
        const auto border = [&, begin = begin, end = end](int rank) {
          return begin + (end - begin) * rank / world.size();
        };
        const std::int64_t from = border(world.rank()), to = border(world.rank() + 1);
        shards.push_back({.master = result.slice(0, from, to),
                          .gradient = gradient.slice(0, from, to),
                          .state = {},
                          .averages = {},
                          .parameter = {}});
      }
      StepScalars own = scalars;
      const auto sums = global_sums(optimizer, shards, own, [&](std::span<double> values) {
        world.all_reduce(values, dist::ReduceOp::sum);
      });
      ASSERT_EQ(sums.size(), 1u);
      own.sums = sums;
      for (const Shard& shard : shards) optimizer.step(shard, own);
    });
    EXPECT_TRUE(at::allclose(result, expected, 0, 1e-14)) << ranks;
  }
}

/// Two rounds: the second reads what the first summed.
class TwoRounds : public NormalisedDescent {
 public:
  int rounds() const override { return 2; }
  std::size_t sums_of(int round) const override { return round == 0 ? 2 : 1; }
  void contribute(int round, std::span<const Shard>, const StepScalars& scalars,
                  std::span<double> sums) const override {
    if (round == 0) {
      EXPECT_TRUE(scalars.sums.empty());
      sums[0] += 1;
      sums[1] += 10;
    } else {
      ASSERT_EQ(scalars.sums.size(), 2u);
      sums[0] += scalars.sums[0] + scalars.sums[1];
    }
  }
};

TEST(Optimizer, ALaterRoundKnowsTheSumsOfEarlierOnes) {
  const auto doubled = [](std::span<double> values) {
    for (double& value : values) value *= 2;
  };
  EXPECT_EQ(global_sums(TwoRounds(), {}, {}, doubled), (std::vector<double>{2, 20, 44}));
  EXPECT_TRUE(global_sums(FusedAdamW(kOptions), {}, {}, doubled).empty());
}

}  // namespace
}  // namespace trestle::trainers
