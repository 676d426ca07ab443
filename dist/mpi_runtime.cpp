#include "dist/mpi_runtime.h"

#include "dist/channel.h"
#include "dist/launch_check.h"
#include "dist/mpi_check.h"
#include "dist/mpi_transport.h"

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

namespace trestle::dist {
namespace {

/// Takes a variable out of the environment for a while.
class HiddenVariable {
 public:
  explicit HiddenVariable(const char* name) : name_(name) {
    if (const char* value = std::getenv(name)) value_ = value;
    ::unsetenv(name);
  }
  ~HiddenVariable() {
    if (value_) ::setenv(name_, value_->c_str(), 1);
  }
  HiddenVariable(const HiddenVariable&) = delete;
  HiddenVariable& operator=(const HiddenVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> value_;
};

/// Pieces of up to kUnaskedBytes go over TCP without a question (dist/channel.h). What the user
/// says by mpirun --mca, which comes as this variable, stays.
void send_pieces_unasked() {
  constexpr size_t kHeaderBytes = 4096;  // counts as part of a message
  ::setenv("OMPI_MCA_btl_tcp_eager_limit", std::to_string(kUnaskedBytes + kHeaderBytes).c_str(),
           /*overwrite=*/0);
}

}  // namespace

void mpi_failed(int code, const char* expression, const char* file, int line) {
  char buffer[MPI_MAX_ERROR_STRING] = "";
  fail(ExitCode::environment,
       "{} failed at {}:{} ({}). Look for the first error that any rank reported.", expression,
       file, line, mpi_error_text(code, buffer));
}

const char* mpi_error_text(int code, char (&buffer)[MPI_MAX_ERROR_STRING]) {
  int length = 0;
  if (MPI_Error_string(code, buffer, &length) != MPI_SUCCESS) {
    std::snprintf(buffer, sizeof buffer, "MPI error %d", code);
  }
  return buffer;
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  TRESTLE_MPI(MPI_Get_library_version(text, &length));
  return std::string(text, static_cast<std::size_t>(length));
}

MpiRuntime::MpiRuntime(int* argc, char*** argv) {
  int started = 0;
  TRESTLE_MPI(MPI_Initialized(&started));
  TRESTLE_ASSERT(!started, "a process has one MpiRuntime");
  check_launch();
  send_pieces_unasked();

  int level = MPI_THREAD_SINGLE;
  {
    // Inside an interactive job step Open MPI takes a program that was simply typed for a task of
    // srun, and ends it for want of PMIx. Without this variable it starts as one rank.
    std::optional<HiddenVariable> step;
    if (is_lone_task_of_step()) step.emplace("SLURM_STEP_ID");
    TRESTLE_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level));
  }
  TRESTLE_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  if (level < MPI_THREAD_SERIALIZED) {
    MPI_Finalize();
    fail(ExitCode::environment,
         "the MPI library grants thread level {} of {} (Trestle calls it from a thread of its own, "
         "which needs MPI_THREAD_SERIALIZED). Use an MPI that was built with thread support.",
         level, static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  TRESTLE_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  TRESTLE_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  start_mpi_transport();
}

MpiRuntime::~MpiRuntime() {
  stop_mpi_transport();
  MPI_Finalize();
}

void MpiRuntime::abort(ExitCode code) {
  std::fflush(nullptr);
  if (size_ > 1) {
    run_on_mpi_thread([&] { MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code)); });
  }
  std::exit(static_cast<int>(code));
}

}  // namespace trestle::dist
