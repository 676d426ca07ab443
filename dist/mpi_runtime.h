// The life of the MPI library in this process.
//
//   int main(int argc, char** argv) {
//     dist::MpiRuntime runtime(&argc, &argv);
//     try {
//       dist::check_world(runtime.size());          // dist/launch_check.h
//       return run(dist::Communicator::world());
//     } catch (const dist::AgreedError& e) {        // all ranks are here: leave together
//       return int(e.code());
//     } catch (const Error& e) {                    // the others do not know: end them too
//       runtime.abort(e.code());
//     }
//   }
//
// COLLECTIVE: constructor and destructor (the destructor waits for every rank's). One per process;
// MPI cannot be started twice. THREADS: construct and destroy on the main thread. In between all
// MPI calls are made by the progress thread (dist/mpi_transport.h).
#pragma once
#include "base/error.h"

#include <string>

namespace trestle::dist {

/// LOCAL. What the loaded library calls itself: "Open MPI v4.1.4, package: ...". At any time.
std::string mpi_library_version();

class MpiRuntime {
 public:
  /// Starts MPI and its progress thread, and lets the library's errors return as codes.
  /// Throws Error(ExitCode::environment) where the library cannot do that.
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Ends every rank of the run with this code, without waiting for any. A lone rank just exits.
  /// For an error that other ranks have not agreed to: leaving alone would strand them.
  [[noreturn]] void abort(ExitCode code);

 private:
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace trestle::dist
