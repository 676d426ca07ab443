// The commands of the program: each adds itself to the command line and, if chosen, sets what is to
// be run. They are thin: parse, call the rooms, print. Results for programs go to stdout,
// everything said to people goes to stderr.
#pragma once
#include "base/stop.h"
#include "configs/recipe.h"
#include "dist/communicator.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace trestle::launch {

/// What main() runs after the command line has been read; returns the exit code.
using Action = std::function<int()>;

void add_train(CLI::App& app, Action& action);
void add_validate(CLI::App& app, Action& action);
void add_explain(CLI::App& app, Action& action);
void add_sample(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
/// The part of bench that trains.
void add_bench_step(CLI::App& bench, Action& action);

/// RECIPE and --set, which several commands share.
struct RecipeArguments {
  std::string file;
  std::vector<std::string> sets;
  void add_to(CLI::App& command);
  configs::Recipe load() const;
};

class RunWatch;  // launch/watch.h

/// What a command does on every rank; returns the exit code. A signal to any rank makes `stop` ask
/// on all of them. A command with a run directory begins the watch.
using RankBody =
    std::function<int(const dist::Communicator& world, StopToken stop, RunWatch& watch)>;

/// Watches signals, starts MPI, checks that the launcher and MPI agree on the number of ranks, runs
/// `body` on every rank, and turns errors into the documented exit code on every rank.
int with_ranks(const RankBody& body);

/// Says how ranks and threads are bound, and sets this rank's threads. COLLECTIVE. `threads` 0:
/// from OMP_NUM_THREADS, else this rank's share of the host's cores.
void bind_threads(const dist::Communicator& world, std::int64_t threads);

void set_log_level_by_name(std::string_view name);

}  // namespace trestle::launch
