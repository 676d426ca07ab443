// What another program prints, asked for within a time limit and without a shell.
//
//   const auto answer = run_program({"squeue", "-h", "-j", job}, {.limit = 20s});
//   if (answer.ok()) use(answer.output);  else log_warn("squeue: {}", answer.problem);
//
// LOCAL; waits. THREADS: any. The program starts with every signal at its default, in a process
// group of its own, so that a terminal's Ctrl-C is not for it. It is started without fork()'s copy
// of this process, whose network may not bear one.
#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace trestle {

struct ProgramAnswer {
  std::string output;   ///< of stdout, at most 1 MiB
  std::string problem;  ///< why there is no answer: one line; empty where the program exited with 0
  bool ok() const { return problem.empty(); }
};

struct RunProgramOptions {
  std::chrono::milliseconds limit = std::chrono::seconds(20);  ///< then it is killed
  std::vector<std::string> environment = {};                   ///< "NAME=value", besides our own
  std::function<bool()> give_up = {};  ///< asked often; true: it is killed at once
};

/// `command`: the program, looked for in PATH, and its arguments. Never throws for what it does.
ProgramAnswer run_program(const std::vector<std::string>& command,
                          const RunProgramOptions& options = {});

}  // namespace trestle
