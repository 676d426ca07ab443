// Communicator over MPI ranks: the cases of every communicator on the world, on a group in reversed
// order, and with messages cut into small pieces.
#include "dist/binding.h"
#include "dist/communicator.h"
#include "dist/mpi_check.h"
#include "dist/mpi_transport.h"
#include "dist/operations.h"
#include "tests/dist/communicator_cases.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace trestle::dist {
namespace {

using namespace testing_cases;

class EveryCommunicator : public testing::TestWithParam<CommunicatorCase> {};

TEST_P(EveryCommunicator, World) { GetParam().run(Communicator::world()); }

TEST_P(EveryCommunicator, Reversed) {
  const Communicator world = Communicator::world();
  GetParam().run(world.split(0, -world.rank()));
}

TEST_P(EveryCommunicator, SmallPieces) {
  const auto channel = make_mpi_world_channel();
  channel->cut_messages(5);
  GetParam().run(Communicator(channel));
}

INSTANTIATE_TEST_SUITE_P(Cases, EveryCommunicator, testing::ValuesIn(kCommunicatorCases),
                         [](const auto& info) { return info.param.name; });

TEST(MpiCommunicator, BarrierWaitsForTheLast) {
  using Clock = std::chrono::steady_clock;
  const Communicator world = Communicator::world();
  for (int late = 0; late < world.size(); ++late) {
    world.barrier();
    const auto start = Clock::now();
    if (world.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    world.barrier();
    EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(30)) << "late: rank " << late;
  }
}

TEST(MpiCommunicator, DifferentSizesAreNamed) {
  const Communicator world = Communicator::world();
  if (world.size() < 2) return;
  // One message each way on ranks 0 and 1, shorter and longer than what its receiver expects.
  for (const size_t sent : {3, 24}) {
    if (world.rank() > 1) break;
    std::vector<std::byte> out(sent), in(8);
    const int other = 1 - world.rank();
    const Pending sending = send(world.channel(), {.kind = "send"}, out, other);
    const Pending receiving = receive(world.channel(), {.kind = "recv"}, in, other);
    const auto failure = failure_of([&] { receiving->wait(); });
    sending->wait();
    EXPECT_EQ(failure.first, 7);
    EXPECT_NE(failure.second.find("expected 8 bytes from rank " + std::to_string(other)),
              std::string::npos)
        << failure.second;
  }
  world.barrier();
}

TEST(MpiCommunicator, FailedCallSaysWhatAndWhere) {
  const Communicator world = Communicator::world();
  const auto failure = failure_of(
      [&] { TRESTLE_MPI(MPI_Send(nullptr, 0, MPI_BYTE, world.size(), 0, MPI_COMM_WORLD)); });
  EXPECT_EQ(failure.first, 4);
  for (const char* part : {"MPI_Send", "communicator_mpi_test.cpp:", "MPI_ERR_RANK"}) {
    EXPECT_NE(failure.second.find(part), std::string::npos) << failure.second;
  }
}

TEST(MpiCommunicator, BindingsOfAllRanks) {
  const Communicator world = Communicator::world();
  Binding mine = this_process();
  mine.threads = 10 + world.rank();
  const auto bindings = gather_bindings(world, mine);
  ASSERT_EQ(bindings.size(), static_cast<size_t>(world.size()));
  EXPECT_EQ(bindings[world.rank()], mine);
  EXPECT_FALSE(mine.cpus.empty());
  for (int rank = 0; rank < world.size(); ++rank) EXPECT_EQ(bindings[rank].threads, 10 + rank);
  EXPECT_FALSE(judge(bindings).warnings.empty());  // ten threads a rank are too many anywhere here
}

}  // namespace
}  // namespace trestle::dist
