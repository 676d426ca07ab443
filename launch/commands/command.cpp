#include "launch/commands/command.h"

#include "base/error.h"
#include "base/log.h"
#include "dist/binding.h"
#include "dist/launch_check.h"
#include "dist/mpi_runtime.h"

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

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

int with_ranks(const std::function<int(const dist::Communicator& world)>& body) {
  int argc = 0;
  char** argv = nullptr;
  dist::MpiRuntime runtime(&argc, &argv);
  set_log_rank(runtime.rank(), runtime.size());
  dist::check_world(runtime.size());
  try {
    return body(dist::Communicator::world());
  } catch (const dist::AgreedError& error) {  // every rank is here, so all may leave in order
    if (runtime.rank() == 0) log_error("{}", error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    log_error("{}", error.what());
    if (runtime.size() == 1) return static_cast<int>(error.code());
    runtime.abort(error.code());
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    if (runtime.size() == 1) return static_cast<int>(ExitCode::environment);
    runtime.abort(ExitCode::environment);
  }
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
