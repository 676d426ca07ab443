// Trains Sana in Trestle on random data, a round at a time, and says how fast: the contender of
// diffusers_step.py, with the same options, the same "go N" protocol and the same kind of step.
//
// A step is trainers::Engine on one rank: draws, bridge loss forward and backward over the
// micro batches, reduction (of one rank), clipping, AdamW, EMA. Data lies ready in memory.
#include "benchmarks/bridge_on_pairs.h"
#include "benchmarks/rounds.h"
#include "trainers/engine.h"

#include <ATen/Parallel.h>

#include <string>

namespace {

using namespace trestle;

struct Arguments {
  std::string workload = "benchmarks/sana_step/workload.json";
  std::int64_t batch = 8, micro_batch = 0, threads = 1;
};

void measure(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const auto workload = benchmarks::read_workload(arguments.workload);
  benchmarks::BridgeOnPairs task(workload);
  const auto collectives = dist::make_collectives(dist::Communicator::self());
  trainers::Engine engine(task, *collectives,
                          trainers::EngineOptions::of(benchmarks::recipe_of(workload), task));
  const trainers::KindCounts kinds = {{"all", arguments.batch}};
  data::BadSamples bad_samples(0);
  const data::BatchPlan plan(arguments.batch, arguments.micro_batch, 0, 1);
  const Draws draws(3);
  std::int64_t step = 0;

  benchmarks::serve({{"go", [&](std::int64_t steps) {
                        const benchmarks::Stopwatch watch;
                        double loss = 0;
                        for (std::int64_t i = 0; i < steps; ++i, ++step) {
                          std::int64_t micro = 0;
                          const auto next_batch = [&] {
                            return task.batch(plan.micro_batch({step}, micro++));
                          };
                          loss += engine
                                      .step({.step = {step},
                                             .draws = draws,
                                             .kinds = kinds,
                                             .micro_steps = plan.micro_steps(),
                                             .next_batch = next_batch,
                                             .bad_samples = bad_samples})
                                      .objectives.front()
                                      .loss;
                        }
                        const double samples = double(steps * arguments.batch);
                        return nlohmann::json{{"samples_per_s", samples / watch.wall_s()},
                                              {"samples_per_cpu_s", samples / watch.cpu_s()},
                                              {"loss", loss / double(steps)},
                                              {"parameters", task.numel()}};
                      }}});
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of sana_step: answers \"go N\" on standard input");
  app.add_option("--workload", arguments.workload, "model, sizes and optimizer settings");
  app.add_option("--batch", arguments.batch, "samples a step");
  app.add_option("--micro-batch", arguments.micro_batch, "samples a backward; 0: the batch");
  app.add_option("--threads", arguments.threads);
  return benchmarks::run(app, argc, argv, [&] {
    if (arguments.micro_batch == 0) arguments.micro_batch = arguments.batch;
    measure(arguments);
  });
}
