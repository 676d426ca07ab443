// The program `trestle`: reads the command line, runs one command, returns its exit code.
#include "base/allocator.h"
#include "base/error.h"
#include "base/log.h"
#include "launch/commands/command.h"

#include <CLI/CLI.hpp>

#include <cstdlib>

int main(int argc, char** argv) {
  using namespace trestle;
  keep_freed_memory();
  CLI::App app(
      "Trestle, a multi-node diffusion trainer.\n"
      "The same program runs alone, under mpirun and under srun --mpi=pmix.");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 2 usage or recipe, 3 data, 4 environment, 5 checkpoint, 6 numbers, 7 "
      "peer lost, 75 stopped by a signal and saved (requeue).");
  app.set_version_flag("--version", std::string("trestle ") + TRESTLE_VERSION);

  launch::Action action;
  launch::add_train(app, action);
  launch::add_validate(app, action);
  launch::add_explain(app, action);
  launch::add_sample(app, action);
  launch::add_inspect(app, action);
  launch::add_plan(app, action);
  launch::add_doctor(app, action);
  launch::add_bench(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);  // prints help, the version, or what is wrong
    return code == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  try {
    return action();
  } catch (const Error& error) {
    log_error("{}", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    log_error("{}", error.what());
    return static_cast<int>(ExitCode::environment);
  }
}
