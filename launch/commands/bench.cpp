#include "base/error.h"
#include "base/files.h"
#include "dist/binding.h"
#include "dist/comm_benchmark.h"
#include "formats/calibration.h"
#include "launch/commands/command.h"
#include "launch/commands/units.h"
#include "trainers/summation.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

namespace trestle::launch {
namespace {

using Json = nlohmann::ordered_json;
using dist::CommOperation;
using dist::CommTiming;

constexpr int kResultVersion = 1;

struct CommArguments {
  std::uint64_t min_bytes = 1 << 10, max_bytes = 64 << 20, factor = 4;
  dist::CommRounds rounds;
  std::string two_level = "auto";
  std::string json_file, calibration_file;
};

/// Who was measured.
struct Group {
  int ranks = 1;
  std::map<std::string, int> ranks_of_host;
  int levels = 1;             ///< of reductions and gathers
  double computing_lost = 0;  ///< while they are under way
};

Group gather_group(const dist::Communicator& world) {
  Group group{.ranks = world.size(), .ranks_of_host = {}};
  for (const auto& host : world.all_gather_bytes(dist::host_name())) {
    ++group.ranks_of_host[host];
  }
  return group;
}

Json describe(const Group& group) {
  Json hosts = Json::array();
  for (const auto& [name, ranks] : group.ranks_of_host) {
    hosts.push_back({{"name", name}, {"ranks", ranks}});
  }
  return {{"world", group.ranks}, {"hosts", hosts}};
}

Json to_json(const std::vector<Mode>& modes) {
  Json list = Json::array();
  for (const auto& [median_s, rounds] : modes)
    list.push_back({{"median_s", median_s}, {"rounds", rounds}});
  return list;
}

Json result_file(const Group& group, const CommArguments& arguments,
                 const std::vector<CommTiming>& timings) {
  Json file = {{"format", "trestle bench comm"}, {"version", kResultVersion}};
  file.update(describe(group));
  file["levels"] = group.levels;
  file["computing_lost"] = group.computing_lost;
  file["rounds"] = arguments.rounds.rounds;
  for (const auto& timing : timings) {
    file["timings"].push_back({{"operation", dist::name_of(timing.operation)},
                               {"bytes", timing.bytes},
                               {"median_s", timing.median_s},
                               {"fastest_s", timing.fastest_s},
                               {"slowest_s", timing.slowest_s},
                               {"modes", to_json(timing.modes)},
                               {"algbw_bytes_per_s", timing.algorithm_bandwidth()},
                               {"busbw_bytes_per_s", timing.bus_bandwidth()}});
  }
  return file;
}

bool has_two_modes(const CommTiming& timing) { return timing.modes.size() == 2; }

/// What `trestle plan` predicts from.
formats::Calibration calibration(const Group& group, const std::vector<CommTiming>& timings) {
  formats::Calibration result{
      .world = group.ranks, .levels = group.levels, .computing_lost = group.computing_lost};
  for (const auto& [name, ranks] : group.ranks_of_host) result.hosts.push_back({name, ranks});
  for (const CommOperation operation : dist::kCommOperations) {
    std::vector<CommTiming> own;
    for (const auto& timing : timings) {
      if (timing.operation == operation) own.push_back(timing);
    }
    const auto cost = [&](bool slow) -> formats::Calibration::Cost {
      const auto [latency_s, bytes_per_s] = dist::fit_cost(own, slow);
      return {.latency_s = latency_s, .bytes_per_s = bytes_per_s};
    };
    auto& fitted = result.operations[std::string(dist::name_of(operation))];
    fitted = {cost(/*slow=*/false)};
    for (const auto& timing : own) fitted.points.push_back({timing.bytes, timing.median_s});
    if (std::ranges::any_of(own, has_two_modes)) fitted.slow = cost(/*slow=*/true);
  }
  return result;
}

void print_heading(const Group& group, const CommArguments& arguments) {
  std::vector<std::string> hosts;
  for (const auto& [name, ranks] : group.ranks_of_host) {
    hosts.push_back(fmt::format("{} x {}", name, ranks));
  }
  fmt::print(
      "{} ranks ({}), float32, in {}, median of {} rounds and their range; bandwidths are 10^9 "
      "bytes a second\n{:<15}{:>12}{:>13}{:>13}{:>13}{:>11}{:>11}\n",
      group.ranks, fmt::join(hosts, ", "), group.levels == 2 ? "two levels" : "one level",
      arguments.rounds.rounds, "operation", "bytes", "time us", "fastest us", "slowest us", "algbw",
      "busbw");
}

void print_row(const CommTiming& timing) {
  fmt::print("{:<15}{:>12}{:>13.1f}{:>13.1f}{:>13.1f}{:>11.3f}{:>11.3f}\n",
             dist::name_of(timing.operation), timing.bytes, timing.median_s * 1e6,
             timing.fastest_s * 1e6, timing.slowest_s * 1e6, timing.algorithm_bandwidth() / 1e9,
             timing.bus_bandwidth() / 1e9);
  std::fflush(stdout);
}

/// Below the table.
void print_remarks(const Group& group, const std::vector<CommTiming>& timings) {
  if (group.ranks > 1) {
    fmt::print(
        "\nwhile reductions and gathers are under way, computing loses {:.0f} % of its speed\n",
        100 * group.computing_lost);
  }
  for (const auto& timing : timings) {
    if (!has_two_modes(timing)) continue;
    const Mode &fast = timing.modes[0], &slow = timing.modes[1];
    fmt::print("{} of {} bytes has two modes: {} rounds of about {}, {} of about {}\n",
               dist::name_of(timing.operation), timing.bytes, fast.count, time_text(fast.median),
               slow.count, time_text(slow.median));
  }
}

int bench_comm(const dist::Communicator& world, StopToken stop, const CommArguments& arguments) {
  world.agreed([&] {
    TRESTLE_REQUIRE(arguments.min_bytes <= arguments.max_bytes,
                    "--min-bytes = {} is more than --max-bytes = {} (no size is left to measure). "
                    "Swap them.",
                    arguments.min_bytes, arguments.max_bytes);
  });
  bind_threads(world, /*threads=*/0);
  Group group = gather_group(world);
  const auto summation = trainers::choose_summation(world, arguments.two_level);
  const auto collectives =
      dist::make_collectives(world, "bench", {.two_level = summation.two_level()});
  group.levels = summation.record().levels;
  if (world.is_root()) print_heading(group, arguments);
  std::vector<CommTiming> timings;
  for (const CommOperation operation : dist::kCommOperations) {
    for (std::uint64_t bytes = arguments.min_bytes; bytes <= arguments.max_bytes;
         bytes *= arguments.factor) {
      world.agreed([&] { stop.check(); });
      timings.push_back(dist::time_collective(*collectives, operation,
                                              static_cast<std::int64_t>(bytes), arguments.rounds));
      if (world.is_root()) print_row(timings.back());
    }
  }
  world.agreed([&] { stop.check(); });
  group.computing_lost = dist::computing_lost(
      *collectives, static_cast<std::int64_t>(arguments.max_bytes), arguments.rounds.rounds);
  if (world.is_root()) print_remarks(group, timings);
  world.agreed([&] {
    if (!world.is_root()) return;
    const auto write = [](const std::string& path, const std::string& text) {
      if (!path.empty()) write_file_atomic(path, text, ExitCode::environment);
    };
    write(arguments.json_file, result_file(group, arguments, timings).dump(1) + "\n");
    write(arguments.calibration_file, formats::to_text(calibration(group, timings)));
  });
  return static_cast<int>(ExitCode::done);
}

void add_comm(CLI::App& bench, Action& action) {
  auto* command = bench.add_subcommand(
      "comm", "time all_reduce, reduce_scatter, all_gather and broadcast between these ranks");
  auto arguments = std::make_shared<CommArguments>();
  const auto size = [&](const char* name, std::uint64_t& value, const char* help) {
    command->add_option(name, value, help)
        ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 36))
        ->capture_default_str()
        ->type_name("BYTES");
  };
  size("--min-bytes", arguments->min_bytes, "smallest tensor; 1KB, 64MB are understood");
  size("--max-bytes", arguments->max_bytes, "largest tensor");
  command->add_option("--factor", arguments->factor, "from one size to the next")
      ->check(CLI::Range(2, 1024))
      ->capture_default_str();
  command->add_option("--warm-up", arguments->rounds.warm_up, "calls whose data is checked")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--rounds", arguments->rounds.rounds, "timed rounds of each size")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--two-level", arguments->two_level,
                   "reduce and gather inside hosts, then between them, as dist.two_level says")
      ->check(CLI::IsMember({"auto", "true", "false"}))
      ->capture_default_str();
  command->add_option("--json", arguments->json_file, "the table for programs (tools/plot_comm)")
      ->type_name("FILE");
  command
      ->add_option("--save", arguments->calibration_file,
                   "the calibration that trestle plan predicts step times from")
      ->type_name("FILE");
  command->footer(
      "Start it as you start training: mpirun -n 4 trestle bench comm, or srun --mpi=pmix ...\n"
      "algbw is bytes / time; busbw is what nccl-tests calls so, comparable with the hardware.");
  command->callback([arguments, &action] {
    action = [arguments] {
      return with_ranks([&](const dist::Communicator& world, StopToken stop, RunWatch&) {
        return bench_comm(world, stop, *arguments);
      });
    };
  });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand("bench", "measure what this machine or cluster can do");
  command->require_subcommand(1);
  add_comm(*command, action);
  add_bench_step(*command, action);
}

}  // namespace trestle::launch
