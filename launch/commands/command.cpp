#include "launch/commands/command.h"

#include "base/error.h"
#include "base/log.h"
#include "dist/binding.h"
#include "dist/launch_check.h"
#include "dist/mpi_runtime.h"
#include "dist/stop_relay.h"
#include "launch/signals.h"
#include "launch/watch.h"

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace trestle::launch {

void RecipeArguments::add_to(CLI::App& command) {
  command.add_option("recipe", file, "the recipe, a TOML file")
      ->required()
      ->type_name("RECIPE.toml");
  command.add_option("--set", sets, "override a key: --set train.steps=100 (may be repeated)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

configs::Recipe RecipeArguments::load() const { return configs::Recipe::load(file, sets); }

namespace {

/// A stop on request is no error.
void say(const Error& error) {
  if (error.code() == ExitCode::preempted)
    log_info("{}", error.what());
  else
    log_error("{}", error.what());
}

/// The body's exit code, or that of the error it threw. An error that the other ranks do not know
/// ends them all.
int run_on_all_ranks(dist::MpiRuntime& runtime, StopSource& source, const RankBody& body) {
  const auto world = dist::Communicator::world();
  RunWatch watch(world);
  const auto leave_alone = [&](const Error& error) {
    if (runtime.size() > 1) watch.failed(error.code(), error.what());
    say(error);  // nobody watches
    log_exit_code(static_cast<int>(error.code()));
    if (runtime.size() > 1) runtime.abort(error.code());
    return static_cast<int>(error.code());
  };
  try {
    dist::StopRelay relay(world, source);
    int code = 0;
    try {
      code = body(world, source.token(), watch);
    } catch (const dist::AgreedError& error) {  // every rank is here, so all may leave in order
      if (runtime.rank() == 0) say(error);
      code = static_cast<int>(error.code());
    }
    relay.close();
    watch.goodbye();
    log_exit_code(code);
    return code;
  } catch (const Error& error) {
    return leave_alone(error);
  } catch (const std::exception& error) {
    return leave_alone(Error(ExitCode::environment, error.what()));
  }
}

/// An mpirun that was told to end does not answer MPI_Finalize any more; it kills the ranks that
/// wait for it two seconds after its SIGCONT. What is to be saved is saved: do not wait that long.
void leave_without_mpirun_soon(int code) {
  std::thread([code] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    std::fflush(nullptr);
    std::_Exit(code);
  }).detach();
}

}  // namespace

int with_ranks(const RankBody& body) {
  StopSource& source = watch_signals();
  int argc = 0;
  char** argv = nullptr;
  dist::MpiRuntime runtime(&argc, &argv);
  set_log_rank(runtime.rank(), runtime.size());
  dist::check_world(runtime.size());
  const int code = run_on_all_ranks(runtime, source, body);
  if (source.token().signal() == SIGCONT) leave_without_mpirun_soon(code);
  return code;
}

void bind_threads(const dist::Communicator& world, std::int64_t threads) {
  dist::Binding mine = dist::this_process();
  if (threads > 0) mine.threads = static_cast<int>(threads);
  auto bindings = dist::gather_bindings(world, mine);
  dist::choose_threads(bindings);
  at::set_num_threads(bindings[static_cast<std::size_t>(world.rank())].threads);
  if (!world.is_root()) return;
  const auto report = dist::judge(bindings);
  for (const auto& line : report.lines) log_info("{}", line);
  for (const auto& warning : report.warnings) log_warn("{}", warning);
}

void set_log_level_by_name(std::string_view name) {
  if (name == "debug") set_log_level(LogLevel::debug);
  if (name == "info") set_log_level(LogLevel::info);
  if (name == "warn") set_log_level(LogLevel::warn);
  if (name == "error") set_log_level(LogLevel::error);
}

}  // namespace trestle::launch
