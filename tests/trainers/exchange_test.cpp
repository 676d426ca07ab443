// The window on other ranks: values and gradients of N ranks against one rank that has all rows, in
// fp64; calls whose order backward must keep; and what is refused.
#include "trainers/exchange.h"

#include "base/error.h"
#include "dist/simulated.h"
#include "models/nn/checkpointed_call.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <functional>
#include <vector>

// Axes: b rows of a rank, B of all, d width.

namespace trestle::trainers {
namespace {

constexpr std::int64_t kWidth = 3;

at::Tensor numbers(std::int64_t rows, double phase) {
  return at::sin(at::arange(rows * kWidth, at::kDouble) * 0.7 + phase).view({rows, kWidth});
}

/// Rows [begin, end) of this rank: no two ranks have equally many, and some may have none.
std::pair<std::int64_t, std::int64_t> share(int rank, int ranks, std::int64_t rows) {
  const auto border = [&](std::int64_t r) { return rows * r * r / (std::int64_t(ranks) * ranks); };
  return {border(rank), border(rank + 1)};
}

/// A loss of the rows [begin, end) that looks at all rows through the exchange.
using Loss = std::function<at::Tensor(Exchange& exchange, const at::Tensor& weight_dd,
                                      const at::Tensor& x_bd)>;

/// The gradient of the weight, summed over the ranks.
at::Tensor gradient(int ranks, std::int64_t rows, const Loss& loss) {
  at::Tensor sum;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    const auto exchange = make_exchange(world);
    const auto [begin, end] = share(world.rank(), ranks, rows);
    const at::Tensor weight_dd = numbers(kWidth, 0.3).requires_grad_(true);
    exchange->begin();
    const at::Tensor own = loss(*exchange, weight_dd, numbers(rows, 1.1).slice(0, begin, end));
    const at::Tensor tied = exchange->tie(own);
    torch::autograd::backward({tied}, {});
    at::Tensor total = weight_dd.grad().defined() ? weight_dd.grad().clone()
                                                  : at::zeros({kWidth, kWidth}, at::kDouble);
    const auto collectives = dist::make_collectives(world);
    collectives->all_reduce(total, dist::ReduceOp::sum).wait();
    if (world.is_root()) sum = total;
  });
  return sum;
}

void expect_like_one_rank(std::int64_t rows, const Loss& loss) {
  const at::Tensor one = gradient(1, rows, loss);
  ASSERT_GT(one.norm().item<double>(), 0);
  for (int ranks = 2; ranks <= 4; ++ranks) {
    const at::Tensor many = gradient(ranks, rows, loss);
    EXPECT_LT(((many - one).norm() / one.norm()).item<double>(), 1e-14)
        << ranks << " ranks, " << rows << " rows";
  }
}

/// Each own row against all rows, as contrastive losses have it.
at::Tensor contrast(const at::Tensor& own_bd, const at::Tensor& all_Bd) {
  const at::Tensor scores = own_bd.mm(all_Bd.t());
  return (scores.logsumexp(1) - own_bd.square().sum(1)).sum();
}

TEST(Exchange, GradientsOfGatheredSamplesAreThoseOfOneRank) {
  const auto loss = [](Exchange& exchange, const at::Tensor& weight_dd, const at::Tensor& x_bd) {
    const at::Tensor own = at::tanh(x_bd.mm(weight_dd));
    return contrast(own, exchange.gather_samples(own));
  };
  expect_like_one_rank(16, loss);
  expect_like_one_rank(5, loss);  // of 4 ranks the first has no row
}

TEST(Exchange, GathersOfGathersComeBackInOrder) {
  expect_like_one_rank(
      16, [](Exchange& exchange, const at::Tensor& weight_dd, const at::Tensor& x_bd) {
        const at::Tensor own = at::tanh(x_bd.mm(weight_dd));
        const at::Tensor centred = own - exchange.gather_samples(own).mean(0, /*keepdim=*/true);
        const at::Tensor second = at::sin(centred.mm(weight_dd));
        const at::Tensor third = exchange.gather_samples(own.square());
        return contrast(second, exchange.gather_samples(second)) + third.sum() * own.sum();
      });
}

TEST(Exchange, ARankWhoseLossIgnoresWhatItGatheredStillTakesPart) {
  const auto loss = [](Exchange& exchange, const at::Tensor& weight_dd, const at::Tensor& x_bd) {
    const at::Tensor own = at::tanh(x_bd.mm(weight_dd));
    const at::Tensor all = exchange.gather_samples(own),
                     squares = exchange.gather_samples(own * own);
    // Only whoever has the last row looks at all, and never at the first gather.
    const bool last = at::equal(x_bd.slice(0, -1).flatten(), numbers(8, 1.1)[7]);
    EXPECT_EQ(all.size(0), 8);
    return last ? squares.sum() : at::Tensor();
  };
  expect_like_one_rank(8, loss);
}

TEST(Exchange, MeansCountRowsNotRanks) {
  dist::simulate(3, [](const dist::Communicator& world) {
    const auto exchange = make_exchange(world);
    const auto [begin, end] = share(world.rank(), 3, 7);
    const at::Tensor x = numbers(7, 0).requires_grad_(true);
    const at::Tensor mean = exchange->global_mean(x.slice(0, begin, end));
    EXPECT_FALSE(mean.requires_grad());
    EXPECT_TRUE(at::allclose(mean, x.detach().mean(0), 1e-14, 1e-14));
  });
}

TEST(Exchange, BranchesSeeEachOthersMapsOfTheSameSamples) {
  dist::simulate(4, [](const dist::Communicator& world) {
    const dist::Mesh mesh(world, 2);
    const auto exchange = make_exchange(mesh);
    // Branch 1's map is wider; every place of the data axis has samples of its own.
    const at::Tensor map =
        at::full({2, 1 + mesh.branch()}, 10.0 * mesh.branch() + mesh.data().rank(), at::kDouble)
            .requires_grad_(true);
    for (int branch = 0; branch < 2; ++branch) {
      const at::Tensor theirs = exchange->from_branch(branch, map);
      EXPECT_FALSE(theirs.requires_grad());
      EXPECT_TRUE(at::equal(
          theirs, at::full({2, 1 + branch}, 10.0 * branch + mesh.data().rank(), at::kDouble)));
    }
    // Each may ask for another one.
    EXPECT_EQ(exchange->from_branch(1 - mesh.branch(), map).size(1), 2 - mesh.branch());
    // Samples are those of the branch.
    EXPECT_EQ(exchange->gather_samples(map).size(0), 4);
    EXPECT_TRUE(
        (exchange->gather_samples(map).detach() >= 10.0 * mesh.branch()).all().item<bool>());
  });
}

TEST(Exchange, OneRankIsTheIdentity) {
  Exchange& exchange = lone_exchange();
  const at::Tensor x = numbers(4, 0).requires_grad_(true);
  EXPECT_TRUE(exchange.gather_samples(x).is_same(x));
  EXPECT_TRUE(at::equal(exchange.global_mean(x), x.detach().mean(0)));
  EXPECT_TRUE(at::equal(exchange.from_branch(0, x), x.detach()));
  EXPECT_FALSE(exchange.from_branch(0, x).requires_grad());
  EXPECT_TRUE(exchange.tie(x).is_same(x));
  EXPECT_THROW(exchange.from_branch(1, x), dist::AgreedError);
}

/// The error that both of two ranks throw.
std::string refusal(const std::function<void(Exchange&, int rank)>& body) {
  std::atomic<int> thrown{0};
  std::string text;
  dist::simulate(2, [&](const dist::Communicator& world) {
    const auto exchange = make_exchange(world);
    try {
      body(*exchange, world.rank());
    } catch (const dist::AgreedError& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      ++thrown;
      if (world.is_root()) text = error.what();
    }
  });
  EXPECT_EQ(thrown, 2);
  return text;
}

TEST(Exchange, CheckpointedSegmentsAreRefused) {
  const std::string text = refusal([](Exchange& exchange, int) {
    const auto segment = [&](const models::nn::Tensors& inputs, const std::any&) {
      return models::nn::Tensors{exchange.gather_samples(inputs[0])};
    };
    models::nn::checkpointed_call(segment, {numbers(2, 0).requires_grad_(true)});
  });
  EXPECT_NE(text.find("train.checkpoint_every = 0"), std::string::npos) << text;
  EXPECT_FALSE(models::nn::inside_checkpointed_segment());
}

TEST(Exchange, RowsThatDoNotFitTogetherAreNamed) {
  const std::string text = refusal([](Exchange& exchange, int rank) {
    exchange.gather_samples(at::zeros({2, 3 + rank}, at::kDouble));
  });
  EXPECT_NE(text.find("Double [2, 3]"), std::string::npos) << text;
  EXPECT_NE(text.find("Double [2, 4]"), std::string::npos) << text;
}

TEST(Exchange, ATaskThatDoesNotSaySoIsRefused) {
  const auto exchange = refuse_exchange("line_fit");
  try {
    exchange->global_mean(numbers(2, 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("task line_fit"), std::string::npos);
  }
}

}  // namespace
}  // namespace trestle::trainers
