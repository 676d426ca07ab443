// A loss term is divided by the number of samples of its kind in the GLOBAL batch, before backward.
// So whatever the ranks and micro batches are, a run equals one that computes every global batch at
// once and takes each term's plain mean over it.
#include "base/log.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"
#include "tests/support/lone_assembly.h"
#include "tests/support/scratch.h"
#include "trainers/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <fstream>

namespace trestle::trainers {
namespace {

constexpr std::string_view kRecipe = R"(
[run]
task = "line_fit"
seed = 3
[train]
steps = 12
global_batch = 7
micro_batch = 2
max_grad_norm = 0
[optim]
learning_rate = 0.05
[log]
level = "error"
)";
constexpr double kBound = 1e-12;

configs::Recipe recipe(const std::vector<std::string>& sets) {
  set_log_level(LogLevel::error);
  return configs::Recipe::from_text(kRecipe, "test", sets);
}

/// What a run leaves: numbers of each step, and the parameters, concatenated.
struct Run {
  std::vector<double> loss, grad_norm;
  at::Tensor weights;
};

at::Tensor concatenated(const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> flat;
  for (const auto& parameter : parameters) flat.push_back(parameter.tensor.detach().flatten());
  return at::cat(flat);
}

/// By the trainer, over ranks and micro batches.
Run split_run(int ranks, const std::vector<std::string>& sets) {
  const testing::ScratchFolder folder;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    Trainer(recipe(sets), world, RunDirectory(folder.path())).run();
  });
  Run run;
  std::ifstream lines(folder.path() / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto numbers = nlohmann::json::parse(line);
    run.loss.push_back(numbers.at("loss"));
    run.grad_norm.push_back(numbers.at("grad_norm"));
  }
  testing::LoneAssembly lone(recipe(sets));
  Assembly& assembly = lone.assembly;
  TrainingState state = assembly.state();
  checkpoint::load(*checkpoint::newest(folder.path() / "checkpoints"), state.visitor());
  run.weights = concatenated(assembly.engine.parameters());
  return run;
}

bool readable(const data::Dataset& dataset, data::SampleId id) {
  try {
    dataset.load(std::span(&id, 1));
    return true;
  } catch (const data::BadSample&) {
    return false;
  }
}

/// Which sample stands at a position: the permutation's, or the next readable one of its kind.
data::SampleId sample_at(const data::Dataset& dataset, const data::Sampler& sampler,
                         Position position) {
  const std::string_view kind = dataset.kind(sampler.at(position));
  for (std::int64_t skip = 0; skip < sampler.size(); ++skip) {
    const data::SampleId id = sampler.at(position, skip);
    if (dataset.kind(id) == kind && readable(dataset, id)) return id;
  }
  throw std::logic_error("every sample of a kind is bad");
}

/// Directly: one forward and backward of the whole global batch a step.
Run whole_run(const std::vector<std::string>& sets) {
  const configs::Recipe told = recipe(sets);
  const auto train = told.section<TrainOptions>("train");
  const Draws draws(static_cast<std::uint64_t>(told.section<RunOptions>("run").seed));
  testing::LoneAssembly lone(told);
  Assembly& assembly = lone.assembly;
  AdamW optimizer(assembly.engine.parameters(), told.section<AdamWOptions>("optim"));
  const Objective objective = assembly.task->objectives().front();
  const data::Dataset& points = assembly.task->dataset(Split::train);
  const data::Sampler sampler(draws.seed(), points.size());
  std::vector<at::Tensor> leaves;
  for (const auto& parameter : assembly.engine.parameters()) leaves.push_back(parameter.tensor);

  Run run;
  for (std::int64_t step = 0; step < train.steps; ++step) {
    std::vector<Position> positions;
    std::vector<data::SampleId> ids;
    for (std::int64_t place = 0; place < train.global_batch; ++place) {
      positions.push_back({step * train.global_batch + place});
      ids.push_back(sample_at(points, sampler, positions.back()));
    }
    data::Batch batch = points.load(ids);
    batch.positions = positions;

    at::Tensor loss = at::zeros({}, at::kDouble);
    const StepContext context{.step = Step{step}, .draws = draws};
    for (const LossTerm& term : assembly.task->loss(objective, batch, context).terms) {
      if (term.per_sample.numel() > 0) loss = loss + term.per_sample.mean();
    }
    const auto gradients = torch::autograd::grad({loss}, leaves);
    double squares = 0;
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      squares += gradients[i].square().sum().item<double>();
    }
    optimizer.step(told.section<AdamWOptions>("optim").learning_rate, /*gradient_scale=*/1.0,
                   gradients);
    run.loss.push_back(loss.item<double>());
    run.grad_norm.push_back(std::sqrt(squares));
  }
  run.weights = concatenated(assembly.engine.parameters());
  return run;
}

void expect_near(const std::vector<double>& values, const std::vector<double>& wanted,
                 const std::string& what) {
  ASSERT_EQ(values.size(), wanted.size()) << what;
  for (std::size_t step = 0; step < wanted.size(); ++step)
    EXPECT_NEAR(values[step] / wanted[step], 1.0, kBound) << what << " of step " << step;
}

/// A global batch of 7 on 1, 2, 3 and 4 ranks: no share is a multiple of all micro batches, and
/// some ranks have fewer of them than others.
void expect_split_equals_whole(const std::vector<std::string>& sets) {
  const Run whole = whole_run(sets);
  const std::pair<int, int> ranks_and_micro_batch[] = {{1, 2}, {2, 2}, {3, 2},
                                                       {4, 2}, {3, 1}, {2, 3}};
  for (const auto& [ranks, micro_batch] : ranks_and_micro_batch) {
    const std::string where = fmt::format("{} ranks, micro batch {}: ", ranks, micro_batch);
    auto more = sets;
    more.push_back(fmt::format("train.micro_batch={}", micro_batch));
    const Run split = split_run(ranks, more);
    expect_near(split.loss, whole.loss, where + "loss");
    expect_near(split.grad_norm, whole.grad_norm, where + "gradient norm");
    EXPECT_LT(((split.weights - whole.weights).norm() / whole.weights.norm()).item<double>(),
              kBound)
        << where;
  }
}

TEST(LossDivision, GlobalBatchesThatDivideByNothing) {
  expect_split_equals_whole({"task.samples=100"});
}

TEST(LossDivision, BatchesThatCrossAnEpochsEnd) {
  expect_split_equals_whole({"task.samples=20"});  // steps 2, 5 and 8
  // Every step, with some samples twice in a batch, and each use counts.
  expect_split_equals_whole({"task.samples=5", "task.prior_every=2"});
}

TEST(LossDivision, EachKindByItsOwnCount) {
  expect_split_equals_whole({"task.samples=20", "task.prior_every=3"});
}

TEST(LossDivision, KindsThatARankOrAWholeBatchLacks) {
  // One sample in twenty is of kind "prior", and a batch has seven.
  const std::vector<std::string> sets = {"task.samples=20", "task.prior_every=20"};
  testing::LoneAssembly lone(recipe(sets));
  Assembly& assembly = lone.assembly;
  const data::Dataset& points = assembly.task->dataset(Split::train);
  const data::Sampler sampler(/*seed=*/3, points.size());
  const data::BatchPlan first_of_two(/*global_batch=*/7, /*micro_batch=*/7, /*rank=*/0, 2);
  int with = 0, without = 0, on_first = 0;
  for (std::int64_t step = 0; step < 12; ++step) {
    const auto counts = count_kinds(points, sampler, first_of_two.global_batch(Step{step}));
    ++(counts.contains("prior") ? with : without);
    const auto here = count_kinds(points, sampler, first_of_two.micro_batch(Step{step}, 0));
    on_first += here.contains("prior");
  }
  ASSERT_GT(without, 0);
  ASSERT_GT(on_first, 0);
  ASSERT_LT(on_first, with);
  expect_split_equals_whole(sets);
}

TEST(LossDivision, BadSamplesAreReplacedByTheirKind) {
  expect_split_equals_whole(
      {"task.samples=20", "task.prior_every=3", "task.unreadable=[3,7,11,15,19]"});
}

}  // namespace
}  // namespace trestle::trainers
