// Trains Sana in Trestle on random data, a round at a time, and says how fast: the contender of
// diffusers_step.py, with the same options, the same "go N" protocol and the same kind of step.
//
// A step is trainers::Engine on one rank: draws, bridge loss forward and backward over the
// micro batches, reduction (of one rank), clipping, AdamW, EMA. Data lies ready in memory. With
// --backward-only it ends when backward has, and the gradients are dropped.
#include "benchmarks/bridge_on_pairs.h"
#include "benchmarks/rounds.h"
#include "trainers/engine.h"

#include <ATen/Parallel.h>

#include <functional>
#include <string>

namespace {

using namespace trestle;

struct Arguments {
  std::string workload = "benchmarks/sana_step/workload.json";
  std::int64_t batch = 8, micro_batch = 0, threads = 1;
  bool backward_only = false;
};

/// Takes a step and returns the mean loss of its samples.
using TakeStep = std::function<double(std::int64_t step)>;

void serve_steps(const TakeStep& take_step, std::int64_t batch, std::int64_t parameters) {
  std::int64_t step = 0;
  benchmarks::serve({{"go", [&](std::int64_t steps) {
                        const benchmarks::Stopwatch watch;
                        double loss = 0;
                        for (std::int64_t i = 0; i < steps; ++i) loss += take_step(step++);
                        const double samples = double(steps * batch);
                        return nlohmann::json{{"samples_per_s", samples / watch.wall_s()},
                                              {"samples_per_cpu_s", samples / watch.cpu_s()},
                                              {"loss", loss / double(steps)},
                                              {"parameters", parameters}};
                      }}});
}

/// Forward and backward of the step's micro batches, as the loop without engine would have them.
double forward_and_backward(benchmarks::BridgeOnPairs& task, const data::BatchPlan& plan,
                            const Draws& draws, std::int64_t batch, std::int64_t step) {
  double loss = 0;
  for (std::int64_t micro = 0; micro < plan.micro_steps(); ++micro) {
    const auto report =
        task.loss(task.objectives().front(), task.batch(plan.micro_batch({step}, micro)),
                  {.step = {step}, .draws = draws});
    const at::Tensor part = report.terms.front().per_sample.sum() / batch;
    part.backward();
    loss += part.item<double>();
  }
  for (const auto& [name, parameter] : task.groups().front().parameters) {
    parameter.mutable_grad() = at::Tensor();
  }
  return loss;
}

void measure(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const auto workload = benchmarks::read_workload(arguments.workload);
  benchmarks::BridgeOnPairs task(workload);
  const auto collectives = dist::make_collectives(dist::Communicator::self());
  data::BadSamples bad_samples(0);
  const data::BatchPlan plan(arguments.batch, arguments.micro_batch, 0, 1);
  const Draws draws(3);
  if (arguments.backward_only) {
    return serve_steps(
        [&](std::int64_t step) {
          return forward_and_backward(task, plan, draws, arguments.batch, step);
        },
        arguments.batch, task.numel());
  }

  trainers::Engine engine(task, *collectives,
                          trainers::EngineOptions::of(benchmarks::recipe_of(workload), task));
  const trainers::KindCounts kinds = {{"all", arguments.batch}};
  const auto take_step = [&](std::int64_t step) {
    std::int64_t micro = 0;
    const auto next_batch = [&] { return task.batch(plan.micro_batch({step}, micro++)); };
    return engine
        .step({.step = {step},
               .draws = draws,
               .kinds = kinds,
               .micro_steps = plan.micro_steps(),
               .next_batch = next_batch,
               .bad_samples = bad_samples})
        .objectives.front()
        .loss;
  };
  serve_steps(take_step, arguments.batch, task.numel());
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of sana_step: answers \"go N\" on standard input");
  app.add_option("--workload", arguments.workload, "model, sizes and optimizer settings");
  app.add_option("--batch", arguments.batch, "samples a step");
  app.add_option("--micro-batch", arguments.micro_batch, "samples a backward; 0: the batch");
  app.add_option("--threads", arguments.threads);
  app.add_flag("--backward-only", arguments.backward_only, "no clipping, optimizer or average");
  return benchmarks::run(app, argc, argv, [&] {
    if (arguments.micro_batch == 0) arguments.micro_batch = arguments.batch;
    measure(arguments);
  });
}
