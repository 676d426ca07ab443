// Trains Sana in Trestle over ranks, a round at a time, and says how fast and what was sent: the
// contender of ddp_ranks.py, with the same options and the same protocol.
//
//   mpirun -n 2 multi_node_trestle --batch 4 --set dist.wire_dtype=bf16
//
// Rank 0 reads the requests and answers. For "go N" all take N steps of trainers::Engine; for
// "parts N" each part of a step alone, N times (parts.h). --interface counts what the hosts send
// through it.
#include "benchmarks/bridge_on_pairs.h"
#include "benchmarks/multi_node/parts.h"
#include "benchmarks/on_all_ranks.h"
#include "benchmarks/rounds.h"
#include "dist/binding.h"
#include "trainers/engine.h"
#include "trainers/summation.h"

#include <ATen/Parallel.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace trestle;

struct Arguments {
  std::string workload = "benchmarks/multi_node/workload.json";
  std::int64_t batch = 4, threads = 1;
  std::string interface;
  std::vector<std::string> sets;
};

/// Bytes that the hosts of these ranks have sent through their interfaces of this name.
class SentBytes {
 public:
  /// COLLECTIVE.
  SentBytes(const dist::Communicator& world, const std::string& interface)
      : world_(world), file_("/sys/class/net/" + interface + "/statistics/tx_bytes") {
    const auto hosts = world.all_gather_bytes(dist::host_name());
    const auto first = std::ranges::find(hosts, hosts[world.rank()]) - hosts.begin();
    counts_ = !interface.empty() && first == world.rank();  // one rank a host
    world.agreed([&] {
      TRESTLE_REQUIRE_AS(environment, !counts_ || std::filesystem::exists(file_),
                         "--interface {}: there is no {} on {}. Name a network interface that "
                         "every host has (ip link shows them), or leave it out.",
                         interface, file_, hosts[world.rank()]);
    });
  }

  /// COLLECTIVE. Since the start of the hosts.
  std::int64_t read() const {
    std::int64_t bytes = 0;
    if (counts_) std::ifstream(file_) >> bytes;
    world_.all_reduce(std::span(&bytes, 1), dist::ReduceOp::sum);
    return bytes;
  }

 private:
  const dist::Communicator& world_;
  std::string file_;
  bool counts_ = false;
};

void measure(const Arguments& arguments, const dist::Communicator& world) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const auto workload = world.agreed([&] { return benchmarks::read_workload(arguments.workload); });
  const auto recipe = world.agreed([&] { return benchmarks::recipe_of(workload, arguments.sets); });
  benchmarks::BridgeOnPairs task(workload);
  const auto summation =
      trainers::choose_summation(world, recipe.section<trainers::DistOptions>("dist").two_level);
  const auto collectives =
      dist::make_collectives(world, "gradients", {.two_level = summation.two_level()});
  const auto options = trainers::EngineOptions::of(recipe, task);
  trainers::Engine engine(task, *collectives, options);
  benchmarks::Parts parts(workload, options, *collectives, arguments.batch);
  const SentBytes sent(world, arguments.interface);

  const std::int64_t global_batch = arguments.batch * world.size();
  const trainers::KindCounts kinds = {{"all", global_batch}};
  data::BadSamples bad_samples(0);
  const data::BatchPlan plan(global_batch, arguments.batch, world.rank(), world.size());
  const Draws draws(3);
  std::int64_t step = 0;

  const auto go = [&](std::int64_t steps) -> nlohmann::json {
    const std::int64_t sent_before = sent.read();
    world.barrier();
    const benchmarks::Stopwatch watch;
    double loss = 0;
    for (std::int64_t i = 0; i < steps; ++i, ++step) {
      const auto next_batch = [&] { return task.batch(plan.micro_batch({step}, 0)); };
      loss += engine
                  .step({.step = {step},
                         .draws = draws,
                         .kinds = kinds,
                         .next_batch = next_batch,
                         .bad_samples = bad_samples})
                  .objectives.front()
                  .loss;
    }
    engine.wait();
    world.barrier();
    const double wall_s = watch.wall_s();
    const std::int64_t sent_bytes = sent.read() - sent_before;
    if (!world.is_root()) return {};
    return {{"samples_per_s", double(steps * global_batch) / wall_s},
            {"step_ms", 1e3 * wall_s / double(steps)},
            {"sent_bytes_per_step", double(sent_bytes) / double(steps)},
            {"loss", loss / double(steps)},
            {"parameters", task.numel()}};
  };
  const auto alone = [&](std::int64_t repetitions) -> nlohmann::json {
    nlohmann::json answer = parts.measure(repetitions);
    return world.is_root() ? answer : nlohmann::json();
  };
  benchmarks::serve({{"go", go}, {"parts", alone}}, [&] {
    return world.broadcast_bytes(world.is_root() ? benchmarks::read_line() : "", /*root=*/0);
  });
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of multi_node: answers \"go N\" and \"parts N\" on rank 0");
  app.add_option("--workload", arguments.workload, "model, sizes and optimizer settings");
  app.add_option("--batch", arguments.batch, "samples a step on each rank");
  app.add_option("--threads", arguments.threads, "of each rank");
  app.add_option("--interface", arguments.interface, "the hosts' network interface, to be counted");
  app.add_option("--set", arguments.sets, "a recipe's setting: dist.shard=none (may be repeated)");
  return benchmarks::run(app, argc, argv, [&] {
    benchmarks::on_all_ranks([&](const dist::Communicator& world) { measure(arguments, world); });
  });
}
