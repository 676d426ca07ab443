// What the measuring programs share: rounds on request, their clock, errors as exit codes. A runner
// starts several such programs and lets them take rounds in turn (benchmarks/contest.py).
//
//   int main(int argc, char** argv) {
//     Arguments arguments;
//     CLI::App app("what is measured");
//     app.add_option("--batch", arguments.batch);
//     return benchmarks::run(app, argc, argv, [&] {
//       benchmarks::serve({{"go", [&](std::int64_t steps) {
//         const benchmarks::Stopwatch watch;
//         ...
//         return nlohmann::json{{"ms_per_step", 1e3 * watch.wall_s() / double(steps)}};
//       }}});
//     });
//   }
//
// LOCAL. THREADS: one.
#pragma once
#include "base/allocator.h"
#include "base/error.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <ctime>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

namespace trestle::benchmarks {

/// Runs from its making.
class Stopwatch {
 public:
  double wall_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - wall_).count();
  }
  /// Of all threads: for a look on a busy machine.
  double cpu_s() const { return cpu_seconds() - cpu_s_; }

 private:
  static double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
  }

  std::chrono::steady_clock::time_point wall_ = std::chrono::steady_clock::now();
  double cpu_s_ = cpu_seconds();
};

/// Takes that many steps and returns what is printed about them; null: nothing is printed.
using Round = std::function<nlohmann::json(std::int64_t steps)>;

/// A line of standard input; empty at its end.
inline std::string read_line() {
  std::string line;
  std::getline(std::cin, line);
  return line;
}

/// Answers lines "WORD N" with the rounds of that word, one JSON line each, until they end.
inline void serve(const std::map<std::string, Round>& rounds,
                  const std::function<std::string()>& next_line = read_line) {
  for (std::string line; !(line = next_line()).empty();) {
    std::istringstream in(line);
    std::string word;
    std::int64_t steps = 0;
    const bool whole = in >> word >> steps && steps >= 1;
    const auto round = rounds.find(word);
    TRESTLE_REQUIRE(whole && round != rounds.end(),
                    "\"{}\" is not a round (say \"{} N\" with N >= 1).", line,
                    rounds.begin()->first);
    const nlohmann::json answer = round->second(steps);
    if (!answer.is_null()) std::cout << answer.dump() << std::endl;
  }
}

/// A measuring program's main(): returns its exit code. An error without words has been said by
/// another rank.
inline int run(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  keep_freed_memory();  // as launch/main.cpp does
  try {
    app.parse(argc, argv);
    body();
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ExitCode::usage);
  } catch (const Error& error) {
    if (*error.what() != '\0') std::cerr << "error: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}

}  // namespace trestle::benchmarks
