// A few steps of a random model, made by the engine with the plain step beside it.
//
//   dist::simulate(3, [&](const dist::Communicator& world) { result = run_trial(trial, world); });
//
// COLLECTIVE. THREADS: one a rank.
#pragma once
#include "base/digest.h"
#include "base/log.h"
#include "tests/trainers/random_task.h"
#include "trainers/paranoid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace trestle::testing {

struct Trial {
  RandomTaskOptions model;
  int ranks = 2;  ///< where they are simulated
  dist::ShardMode shard = dist::ShardMode::optimizer;
  dist::WireDtype wire = dist::WireDtype::sum;
  std::int64_t global_batch = 10, micro_batch = 5, steps = 3;
  std::int64_t bucket_bytes = 3000;
  bool paranoid = true;  ///< the plain step runs beside the engine, and must agree
  std::function<std::unique_ptr<const trainers::Optimizer>(const trainers::GroupOptions&)>
      make_optimizer = trainers::EngineOptions::fused_adamw;
  std::string hosts = {};  ///< a letter a rank: two levels over them; empty: one
  std::function<void(trainers::Engine&)> around_steps = {};  ///< before each, and after the last
};

struct Result {
  std::vector<at::Tensor> parameters;
  std::vector<double> losses, norms;
  std::vector<std::string> not_finite;
  std::vector<std::map<std::string, double>> metrics;  ///< of the first objective
};

inline dist::CollectivesOptions levels_of(const Trial& trial) {
  if (trial.hosts.empty()) return {};
  std::vector<std::string> names;
  for (const char letter : trial.hosts) names.emplace_back(1, letter);
  return {.two_level = dist::Topology(names)};
}

inline void expect_equal_bits(const Result& a, const Result& b, const std::string& where) {
  ASSERT_EQ(a.parameters.size(), b.parameters.size());
  for (std::size_t i = 0; i < a.parameters.size(); ++i)
    EXPECT_TRUE(at::equal(a.parameters[i], b.parameters[i])) << where << ", parameter " << i;
  EXPECT_EQ(a.losses, b.losses) << where;
  EXPECT_EQ(a.norms, b.norms) << where;
  EXPECT_EQ(a.metrics, b.metrics) << where;
}

/// What two ranks that agree have in common.
inline std::string fingerprint(const Result& result) {
  std::string text;
  for (const auto& p : result.parameters)
    text += digest_128({static_cast<const char*>(p.data_ptr()), p.nbytes()});
  for (const double loss : result.losses) text += fmt::format(" {:a}", loss);
  for (const auto& metrics : result.metrics) {
    for (const auto& [name, value] : metrics) text += fmt::format(" {} {:a}", name, value);
  }
  for (const auto& problem : result.not_finite) text += problem + "\n";
  return text;
}

/// What every rank has in the end; they must agree.
inline Result run_trial(const Trial& trial, const dist::Communicator& world) {
  using namespace trainers;
  set_log_level(LogLevel::error);
  RandomTask task(trial.model);
  const auto gradients = dist::make_collectives(world, "gradients", levels_of(trial)),
             plain = dist::make_collectives(world);
  const EngineOptions options{
      .reducer = {.shard = trial.shard, .wire = trial.wire},
      .bucket_bytes = trial.bucket_bytes,
      .max_grad_norm = 0.5,
      .averages = {{.name = "ema", .options = {.decay = 0.9}},
                   {.name = "ema.fast", .options = {.schedule = "constant", .decay = 0.25}}},
      .every_group = {.adamw = {.learning_rate = 0.01}, .schedule = {}},
      .groups = {},
      .make_optimizer = trial.make_optimizer};
  Engine engine(task, *gradients, options);
  Paranoid paranoid(task, engine, *plain, options);
  const data::Dataset& points = task.dataset(Split::train);
  const data::Sampler sampler(3, points.size());
  const data::BatchPlan plan(trial.global_batch, trial.micro_batch, world.rank(), world.size());
  const Draws draws(3);
  data::BadSamples bad(0);
  Result mine;
  for (std::int64_t step = 0; step < trial.steps; ++step) {
    if (trial.around_steps) trial.around_steps(engine);
    const KindCounts kinds = count_kinds(points, sampler, plan.global_batch({step}));
    std::int64_t micro = 0;
    const StepInputs inputs{.step = {step},
                            .draws = draws,
                            .kinds = kinds,
                            .micro_steps = plan.micro_steps(),
                            .next_batch =
                                [&] {
                                  const auto positions = plan.micro_batch({step}, micro++);
                                  std::vector<data::SampleId> ids;
                                  for (const auto p : positions) ids.push_back(sampler.at(p));
                                  if (ids.empty()) return data::Batch{};
                                  data::Batch batch = points.load(ids);
                                  batch.positions = positions;
                                  return batch;
                                },
                            .bad_samples = bad};
    const StepReport report = trial.paranoid ? paranoid.step(inputs) : engine.step(inputs);
    mine.losses.push_back(report.objectives.front().loss);
    mine.norms.push_back(report.objectives.front().grad_norm);
    mine.not_finite.push_back(report.not_finite());
    mine.metrics.push_back(report.objectives.front().metrics);
  }
  engine.wait();
  if (trial.around_steps) trial.around_steps(engine);
  for (const auto& parameter : engine.parameters())
    mine.parameters.push_back(parameter.tensor.detach().clone());
  const auto fingerprints = world.all_gather_bytes(fingerprint(mine));
  EXPECT_EQ(fingerprint(mine), fingerprints.front()) << "rank " << world.rank();
  return mine;
}

}  // namespace trestle::testing
