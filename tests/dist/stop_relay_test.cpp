#include "dist/stop_relay.h"

#include "dist/simulated.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds until the token asks to stop; 30 where it never does.
double seconds_until_stopped(StopToken stop) {
  const auto started = Clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(Clock::now() - started).count();
  };
  while (!stop.requested() && elapsed() < 30)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return elapsed();
}

TEST(StopRelay, OneRanksSignalReachesAll) {
  for (const int size : {1, 2, 3, 8, 13}) {
    for (const int origin : {0, size / 2, size - 1}) {
      simulate(size, [&](const Communicator& world) {
        StopSource source;
        StopRelay relay(world, source);
        if (world.rank() == origin) source.request(SIGUSR2);
        EXPECT_LT(seconds_until_stopped(source.token()), 5) << world.rank() << " of " << size;
        EXPECT_EQ(source.token().signal(), SIGUSR2);
        relay.close();
      });
    }
  }
}

TEST(StopRelay, NobodyStopsUnasked) {
  simulate(5, [&](const Communicator& world) {
    StopSource source;
    StopRelay relay(world, source);
    std::this_thread::sleep_for(std::chrono::milliseconds(150 + 30 * world.rank()));
    relay.close();  // some are late; nobody is stranded
    EXPECT_FALSE(source.token().requested());
  });
}

TEST(StopRelay, ALateRequestMeetsAnEarlyClose) {
  simulate(3, [&](const Communicator& world) {
    StopSource source;
    StopRelay relay(world, source);
    if (world.rank() == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      source.request(SIGTERM);
    }
    relay.close();
  });
}

TEST(StopRelay, ARankThatFailsDoesNotWaitForTheOthers) {
  EXPECT_THROW(simulate(3,
                        [&](const Communicator& world) {
                          StopSource source;
                          StopRelay relay(world, source);
                          if (world.rank() == 1) fail(ExitCode::data, "alone");
                          world.barrier();
                        }),
               Error);
}

}  // namespace
}  // namespace trestle::dist
