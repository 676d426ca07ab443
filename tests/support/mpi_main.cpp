// The main of tests that run under mpirun. Every rank runs the same tests in the same order and
// exits with the same code; rank 0 prints the usual report, the others only their failures.
#include "dist/communicator.h"
#include "dist/launch_check.h"
#include "dist/mpi_runtime.h"

#include <gtest/gtest.h>

#include <iostream>
#include <string>

namespace {

class FailuresOnly : public testing::EmptyTestEventListener {
 public:
  explicit FailuresOnly(int rank) : rank_(rank) {}

 private:
  void OnTestStart(const testing::TestInfo& test) override {
    // Asking for the current test from inside OnTestPartResult would take a lock that is held.
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* file = result.file_name() ? result.file_name() : "unknown file";
    std::cerr << "rank " << rank_ << ": " << file << ":" << result.line_number() << ": Failure in "
              << test_ << "\n"
              << result.message() << std::endl;
  }

  int rank_;
  std::string test_;
};

}  // namespace

int main(int argc, char** argv) {
  using namespace trestle;
  try {
    testing::InitGoogleTest(&argc, argv);
    dist::MpiRuntime runtime(&argc, &argv);
    dist::check_world(runtime.size());
    if (runtime.rank() != 0) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new FailuresOnly(runtime.rank()));
    }
    const dist::Communicator world = dist::Communicator::world();
    int64_t failed = RUN_ALL_TESTS();
    world.all_reduce(std::span(&failed, 1), dist::ReduceOp::max);
    return static_cast<int>(failed);
  } catch (const Error& error) {
    std::cerr << error.what() << std::endl;
    return static_cast<int>(error.code());
  }
}
