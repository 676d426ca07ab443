// Errors that reach people, and the exit codes that scripts read.
//
// Message grammar: problem (reason) what to do.
//   TRESTLE_REQUIRE(n > 0, "train.steps = {} (a run needs at least one step). Set train.steps
//   >= 1.", n);
// LOCAL: throwing says nothing to other ranks; dist::Communicator::agree() makes an error common.
// THREADS: everything here may be called from any thread.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace trestle {

/// Exit codes of the program `trestle`, the same on every rank.
enum class ExitCode : int {
  done = 0,
  usage = 2,        ///< command line or recipe
  data = 3,         ///< a dataset, picture or weight file
  environment = 4,  ///< MPI, launch, devices, disks
  checkpoint = 5,   ///< a checkpoint could not be written or read
  numbers = 6,      ///< non-finite loss or gradient
  peer = 7,         ///< a rank was lost or stalled
  preempted = 75,   ///< saved and left early; requeue
};

/// An error with the code the program will exit with. what() is the whole sentence for the user.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line,
                                   const std::string& message);

}  // namespace trestle

/// What a user can cause (recipe, command line): throws Error with ExitCode::usage.
#define TRESTLE_REQUIRE(condition, ...) TRESTLE_REQUIRE_AS(usage, condition, __VA_ARGS__)

/// The same with another exit code: TRESTLE_REQUIRE_AS(data, file_ok, "...").
#define TRESTLE_REQUIRE_AS(exit_code, condition, ...)               \
  do {                                                              \
    if (!(condition)) [[unlikely]]                                  \
      ::trestle::fail(::trestle::ExitCode::exit_code, __VA_ARGS__); \
  } while (false)

/// An invariant of ours; a failure is a bug in Trestle and says so.
#define TRESTLE_ASSERT(condition, ...)                                                       \
  do {                                                                                       \
    if (!(condition)) [[unlikely]]                                                           \
      ::trestle::assertion_failed(#condition, __FILE__, __LINE__, fmt::format(__VA_ARGS__)); \
  } while (false)
