// The watchdog over real sockets, with ranks that are threads of this process: one dies, hangs,
// goes silent, or leaves in order.
#include "dist/watchdog.h"

#include "base/clock.h"
#include "dist/peer_star.h"
#include "dist/simulated.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <thread>
#include <unistd.h>

namespace trestle::dist {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// What the hooks of all ranks were called with.
struct Court {
  struct Ending {
    Verdict verdict;
    bool decided_here = false;
    std::optional<ExitCode> code;
    double after_s = 0;
  };

  WatchdogHooks hooks(int rank) {
    return {.record =
                [this, rank](const Verdict& verdict, bool decided_here) {
                  {
                    const std::lock_guard lock(mutex);
                    endings[rank].verdict = verdict;
                    endings[rank].decided_here = decided_here;
                  }
                  if (slow_disk) std::this_thread::sleep_for(std::chrono::hours(1));
                },
            .end =
                [this, rank](ExitCode code) {
                  const std::lock_guard lock(mutex);
                  endings[rank].code = code;
                  endings[rank].after_s = seconds_since(trouble);
                  ++ended;
                }};
  }

  bool wait_for(int ranks, double seconds = 20) const {
    const auto started = Clock::now();
    while (ended < ranks && seconds_since(started) < seconds)
      std::this_thread::sleep_for(milliseconds(5));
    return ended == ranks;
  }

  std::mutex mutex;
  std::map<int, Ending> endings;
  std::atomic<int> ended = 0;
  Clock::time_point trouble = Clock::now();
  bool slow_disk = false;
};

const WatchdogOptions kQuick{.limits = {.startup_s = 0.5, .step_s = 0.5, .checkpoint_s = 3},
                             .silence_s = 20,
                             .beat_s = 0.1,
                             .record_s = 1};

/// A rank's ring and watchdog.
struct Guarded {
  Guarded(const Communicator& world, Court& court, const WatchdogOptions& options = kQuick)
      : ring(100, world.size()) {
    watchdog.emplace(world, ring, options, court.hooks(world.rank()));
  }

  std::uint64_t queue(std::uint64_t sequence, std::string_view name) {
    return ring.queued({.channel = 0,
                        .channel_name = "gradients",
                        .members = members,
                        .sequence = sequence,
                        .kind = "all_reduce",
                        .name = name,
                        .bytes = 100});
  }

  std::array<int, 3> members{0, 1, 2};
  FlightRing ring;
  std::optional<Watchdog> watchdog;
};

TEST(PeerStar, EveryRankIsConnected) {
  for (const int size : {1, 2, 5}) {
    simulate(size, [&](const Communicator& world) {
      auto links = connect_star(world, 10);
      ASSERT_EQ(int(links.size()), size);
      for (int other = 0; other < size; ++other) {
        const bool expected = world.is_root() ? other != 0 : other == 0;
        EXPECT_EQ(links[std::size_t(other)].has_value(), expected && size > 1);
      }
      const std::string large(300'000, 'x');
      for (auto& link : links) {
        if (link) link->send(9, large);
      }
      for (auto& link : links) {
        std::size_t received = 0;
        const auto started = Clock::now();
        while (link && received == 0 && seconds_since(started) < 10) {
          link->flush();
          link->receive([&](std::uint8_t type, std::string_view payload) {
            EXPECT_EQ(type, 9);
            received = payload.size();
          });
        }
        if (link) {
          EXPECT_EQ(received, large.size());
        }
      }
      world.barrier();
    });
  }
}

TEST(PeerLink, WhereNobodyListensIsSaid) {
  int port = 0;
  { port = Listener().port(); }
  try {
    connect_to(
        {"127.0.0.1", "not an address"}, port, [](PeerLink&) { return true; },
        Clock::now() + milliseconds(200));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
    const std::string said = error.what();
    EXPECT_NE(said.find("127.0.0.1: Connection refused"), std::string::npos) << said;
    EXPECT_NE(said.find("dist.watchdog = false"), std::string::npos) << said;
  }
}

TEST(PeerLink, AnotherProgramAtThePortIsNotTakenForRank0) {
  Listener stranger;
  EXPECT_THROW(connect_to(
                   {"127.0.0.1"}, stranger.port(), [](PeerLink&) { return false; },
                   Clock::now() + milliseconds(200)),
               Error);
}

TEST(PeerLink, AMessageTooLongEndsTheConnection) {
  Listener listener;
  auto client = connect_to(
      {"127.0.0.1"}, listener.port(), [](PeerLink&) { return true; },
      Clock::now() + std::chrono::seconds(5));
  std::optional<PeerLink> server;
  while (!server) server = listener.accept();
  // A payload of 0xff bytes, read from its middle on as a header: the first four say 4 GiB.
  client.send(1, "");
  bool open = true;
  int messages = 0;
  const auto count = [&](std::uint8_t, std::string_view) { ++messages; };
  while (messages == 0) open = server->receive(count);
  EXPECT_TRUE(open);
  const char hostile[] = "\xff\xff\xff\xff\xff\xff\xff\xff";
  ASSERT_EQ(::write(client.descriptor(), hostile, 8), 8);
  const auto started = Clock::now();
  while (open && seconds_since(started) < 5) open = server->receive(count);
  EXPECT_FALSE(open);
  EXPECT_EQ(messages, 1);
}

TEST(Watchdog, LeavingTogetherIsNoDeath) {
  for (const int size : {1, 2, 5}) {
    Court court;
    simulate(size, [&](const Communicator& world) {
      Guarded guarded(world, court);
      std::this_thread::sleep_for(milliseconds(50 * world.rank()));
      guarded.watchdog->goodbye();
    });
    EXPECT_EQ(court.ended, 0);
  }
}

TEST(Watchdog, ADeathIsNoticedByAllWithinASecond) {
  for (const int victim : {0, 1, 2}) {
    Court court;
    simulate(3, [&](const Communicator& world) {
      Guarded guarded(world, court);
      const PhaseScope phase(&guarded.ring, Phase::step, 20);
      guarded.ring.finished(guarded.queue(0, "bucket 0"));
      if (world.rank() != victim) guarded.queue(1, "bucket 1");
      std::this_thread::sleep_for(milliseconds(250));  // a table travels
      if (world.rank() == victim) {
        const std::lock_guard lock(court.mutex);
        court.trouble = Clock::now();
        guarded.watchdog.reset();
        return;
      }
      EXPECT_TRUE(court.wait_for(2));
      guarded.watchdog->goodbye();  // returns, since the thread has ended
    });
    ASSERT_EQ(court.endings.size(), 2u) << "victim " << victim;
    for (const auto& [rank, ending] : court.endings) {
      EXPECT_NE(rank, victim);
      EXPECT_EQ(ending.code, ExitCode::peer);
      EXPECT_LT(ending.after_s, 1);
      EXPECT_EQ(ending.verdict.kind, VerdictKind::died);
      EXPECT_EQ(ending.verdict.rank, victim);
      EXPECT_EQ(ending.verdict.step, 20);
      EXPECT_EQ(ending.verdict.op, "gradients all_reduce \"bucket 1\" (100 bytes)");
      EXPECT_NE(ending.verdict.sentence.find("after gradients all_reduce \"bucket 0\""),
                std::string::npos)
          << ending.verdict.sentence;
      EXPECT_EQ(ending.decided_here, victim == 0 || rank == 0);
    }
  }
}

TEST(Watchdog, AHangIsNoticedAfterTheTimeOutOfItsPhase) {
  for (const int victim : {0, 1, 2}) {
    Court court;
    simulate(3, [&](const Communicator& world) {
      Guarded guarded(world, court);
      if (world.rank() == 0) court.trouble = Clock::now();
      const PhaseScope phase(&guarded.ring, Phase::step, 20);
      if (world.rank() != victim) guarded.queue(0, "bucket 0");
      EXPECT_TRUE(court.wait_for(3));
    });
    for (const auto& [rank, ending] : court.endings) {
      EXPECT_EQ(ending.code, ExitCode::peer);
      EXPECT_GT(ending.after_s, kQuick.limits.step_s * 0.9);
      EXPECT_LT(ending.after_s, kQuick.limits.step_s + 10);
      EXPECT_EQ(ending.verdict.kind, VerdictKind::stalled);
      EXPECT_EQ(ending.verdict.rank, victim);
      EXPECT_NE(ending.verdict.sentence.find("never arrived at gradients all_reduce"),
                std::string::npos)
          << ending.verdict.sentence;
    }
  }
}

TEST(Watchdog, ProgressKeepsItQuietHoweverLongItLasts) {
  Court court;
  simulate(3, [&](const Communicator& world) {
    Guarded guarded(world, court);
    for (std::uint64_t step = 0; step < 12; ++step) {  // together twice the time-out
      const PhaseScope phase(&guarded.ring, Phase::step, std::int64_t(step));
      const auto id = guarded.queue(step, "bucket 0");
      std::this_thread::sleep_for(milliseconds(100));
      guarded.ring.finished(id);
    }
    guarded.watchdog->goodbye();
  });
  EXPECT_EQ(court.ended, 0);
}

TEST(Watchdog, PicturesMayTakeTheirTime) {
  Court court;
  simulate(2, [&](const Communicator& world) {
    Guarded guarded(world, court);
    const PhaseScope phase(&guarded.ring, Phase::pictures, 3);
    std::this_thread::sleep_for(milliseconds(1200));
    guarded.watchdog->goodbye();
  });
  EXPECT_EQ(court.ended, 0);
}

TEST(Watchdog, DifferentOperationsAreNoticedWithoutATimeOut) {
  Court court;
  auto options = kQuick;
  options.limits.step_s = 1000;
  simulate(3, [&](const Communicator& world) {
    Guarded guarded(world, court, options);
    if (world.rank() == 0) court.trouble = Clock::now();
    const PhaseScope phase(&guarded.ring, Phase::step, 20);
    guarded.queue(0, world.rank() == 1 ? "wrong" : "bucket 0");
    EXPECT_TRUE(court.wait_for(3));
  });
  for (const auto& [rank, ending] : court.endings) {
    EXPECT_EQ(ending.verdict.kind, VerdictKind::desync);
    EXPECT_EQ(ending.verdict.rank, 1);
    EXPECT_LT(ending.after_s, 5);
  }
}

TEST(Watchdog, AnErrorThatTheOthersDoNotKnowEndsAllWithItsCode) {
  for (const int origin : {0, 2}) {
    Court court;
    simulate(3, [&](const Communicator& world) {
      Guarded guarded(world, court);
      if (world.rank() == origin)
        guarded.watchdog->failed(ExitCode::environment, "no memory is left.");
      EXPECT_TRUE(court.wait_for(3));
    });
    for (const auto& [rank, ending] : court.endings) {
      EXPECT_EQ(ending.code, ExitCode::environment);
      EXPECT_EQ(ending.verdict.kind, VerdictKind::failed);
      EXPECT_EQ(ending.verdict.rank, origin);
      EXPECT_NE(ending.verdict.sentence.find("no memory is left."), std::string::npos);
    }
  }
}

TEST(Watchdog, ASilentPeerIsGone) {
  // Rank 1 takes part in the meeting and then says nothing, with its socket open: a dead host.
  Court court;
  auto options = kQuick;
  options.silence_s = 1;
  simulate(2, [&](const Communicator& world) {
    if (world.rank() == 0) {
      Guarded guarded(world, court, options);
      EXPECT_TRUE(court.wait_for(1));
      world.barrier();
      return;
    }
    world.agreed([] {});  // as the constructor does: its own descriptor, then the star, the hosts
    const auto links = connect_star(world, 10);
    world.all_gather_bytes("far away");
    world.barrier();
  });
  EXPECT_EQ(court.endings.at(0).verdict.kind, VerdictKind::died);
  EXPECT_EQ(court.endings.at(0).verdict.rank, 1);
  EXPECT_EQ(court.endings.at(0).verdict.host, "far away");
  EXPECT_NE(court.endings.at(0).verdict.sentence.find("silent"), std::string::npos);
}

TEST(Watchdog, ADiskThatHangsDoesNotKeepARankAlive) {
  // The recording thread never returns; it stays behind, so what it uses has to stay, too.
  static Court court;
  court.slow_disk = true;
  simulate(2, [&](const Communicator& world) {
    Guarded guarded(world, court);
    if (world.rank() == 1) {
      court.trouble = Clock::now();
      guarded.watchdog.reset();
      return;
    }
    EXPECT_TRUE(court.wait_for(1));
  });
  EXPECT_EQ(court.endings.at(0).code, ExitCode::peer);
  EXPECT_LT(court.endings.at(0).after_s, 4);
}

TEST(Watchdog, ADeathWhileLeavingIsStillADeath) {
  Court court;
  simulate(3, [&](const Communicator& world) {
    Guarded guarded(world, court);
    world.barrier();
    if (world.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(200));
      guarded.watchdog.reset();
      return;
    }
    guarded.watchdog->goodbye();
    EXPECT_GE(court.ended, 1) << "rank " << world.rank() << " left as if all were well";
  });
  EXPECT_EQ(court.endings.size(), 2u);
}

}  // namespace
}  // namespace trestle::dist
