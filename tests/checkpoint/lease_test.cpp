// One run at a time in a run directory: races of threads and of processes, holders that are dead,
// restarted, silent or late, and files that are damaged or gone.
#include "checkpoint/lease.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using Scratch = testing::ScratchFolder;
using Clock = std::chrono::steady_clock;

constexpr double kTimeout_s = 0.6;  // heartbeats every 50 ms

LeaseOptions quick() {
  set_log_level(LogLevel::error);
  return {.timeout_s = kTimeout_s};
}

LeaseHolder me() {
  return this_process(2, [](const char*) { return std::nullopt; });
}

/// Somebody on a host that cannot be looked into.
LeaseHolder stranger() {
  LeaseHolder holder = me();
  holder.host = "elsewhere";
  holder.boot_id = "another";
  return holder;
}

void leave(const fs::path& folder, const LeaseRecord& record) {
  std::ofstream(folder / Lease::kName) << to_text(record);
}

LeaseRecord record_of(const LeaseHolder& holder, std::int64_t epoch) {
  return {.epoch = epoch, .holder = holder, .taken = "then", .beaten = "then"};
}

double seconds_of(const std::function<void()>& what) {
  const auto started = Clock::now();
  what();
  return std::chrono::duration<double>(Clock::now() - started).count();
}

std::string refusal(const std::function<void()>& what, ExitCode code = ExitCode::environment) {
  try {
    what();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// The names in the folder, but for lease.json and the claim of its epoch.
std::vector<std::string> leftovers(const fs::path& folder) {
  std::vector<std::string> names;
  const std::string claim = fmt::format(".lease-{:08}", look_at_lease(folder).epoch);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != Lease::kName && name != claim) names.push_back(name);
  }
  return names;
}

/// What a child process made of `body`: its exit code.
int in_a_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(LeaseRecord, IsTheSameAfterWritingAndAsLongForAnyNumberOfBeats) {
  LeaseRecord record = record_of(me(), 7);
  record.holder.job = "17";
  record.holder.cluster = "big";
  record.holder.restart = 3;
  const std::string text = to_text(record);
  EXPECT_EQ(parse_lease(text, "lease.json"), record);
  record.beats = 1'000'000'000'000;
  EXPECT_EQ(to_text(record).size(), text.size());
  EXPECT_EQ(record.to_text(), fmt::format("host {}, pid {}, Slurm job 17 (restart 3), 2 ranks, "
                                          "since then",
                                          record.holder.host, ::getpid()));
}

TEST(LeaseRecord, AFlippedBitIsDamage) {
  const std::string text = to_text(record_of(me(), 7));
  const std::size_t end = text.find_last_of('}') + 1;
  for (std::size_t place = 0; place < end; ++place) {
    if (std::isspace(static_cast<unsigned char>(text[place]))) continue;  // between fields
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[place] = static_cast<char>(damaged[place] ^ (1 << bit));
      const std::string said = refusal([&] { parse_lease(damaged, "here/lease.json"); });
      EXPECT_EQ(said.rfind("here/lease.json is damaged (", 0), 0u) << said;
    }
  }
}

TEST(LeaseRecord, AHolderIsDeadOnlyWhereThatCanBeSeen) {
  const LeaseHolder here = me();
  const auto standing = [&](LeaseHolder holder, std::optional<std::int64_t> seen) {
    holder.started_ticks = 100;
    return judge(record_of(holder, 1), here, [seen](std::int64_t) { return seen; });
  };
  EXPECT_EQ(standing(here, std::nullopt), Standing::dead);
  EXPECT_EQ(standing(here, 100), Standing::unknown);
  EXPECT_EQ(standing(here, 101), Standing::dead) << "the pid belongs to another process now";
  EXPECT_EQ(standing(here, -1), Standing::unknown) << "a process that hides is alive";
  LeaseHolder other = here;
  other.host = "elsewhere";
  EXPECT_EQ(standing(other, std::nullopt), Standing::unknown);
  other = here;
  other.boot_id = "another machine of this name";
  EXPECT_EQ(standing(other, std::nullopt), Standing::unknown);
  other = here;
  other.pid_space = "pid:[1]";
  EXPECT_EQ(standing(other, std::nullopt), Standing::unknown);
}

TEST(LeaseRecord, AJobGivesWayToItsOwnRestartAndToNoOther) {
  LeaseHolder here = me();
  here.job = "17";
  here.cluster = "big";
  here.restart = 2;
  LeaseHolder before = stranger();
  const auto standing = [&](const std::string& job, const std::string& cluster,
                            std::int64_t restart) {
    before.job = job;
    before.cluster = cluster;
    before.restart = restart;
    return judge(record_of(before, 1), here);
  };
  EXPECT_EQ(standing("17", "big", 1), Standing::older_restart);
  EXPECT_EQ(standing("17", "big", 2), Standing::unknown);
  EXPECT_EQ(standing("17", "big", 3), Standing::unknown);
  EXPECT_EQ(standing("18", "big", 0), Standing::unknown);
  EXPECT_EQ(standing("17", "small", 0), Standing::unknown);
  here.job = "";
  EXPECT_EQ(standing("", "big", 0), Standing::unknown) << "no job is no common job";
}

TEST(LeaseRecord, TakesJobAndRestartFromSlurm) {
  const auto holder = this_process(4, [](const char* name) -> std::optional<std::string> {
    const std::string_view asked = name;
    if (asked == "SLURM_JOB_ID") return "1234";
    if (asked == "SLURM_RESTART_COUNT") return "5";
    if (asked == "SLURM_CLUSTER_NAME") return "big";
    return std::nullopt;
  });
  EXPECT_EQ(holder.job, "1234");
  EXPECT_EQ(holder.restart, 5);
  EXPECT_EQ(holder.cluster, "big");
  EXPECT_EQ(holder.world, 4);
  EXPECT_EQ(holder.pid, ::getpid());
  EXPECT_GT(holder.started_ticks, 0);
  EXPECT_FALSE(holder.boot_id.empty());
  EXPECT_FALSE(holder.pid_space.empty());
}

TEST(LeaseRecord, AProcessThatWaitsToBeBuriedIsDead) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t ended{};
  ::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT);
  EXPECT_EQ(start_of_process(child), std::nullopt);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(start_of_process(child), std::nullopt);
  EXPECT_TRUE(start_of_process(::getpid()).has_value());
}

TEST(Lease, EachTakingRaisesTheEpochAndAnOrderlyEndFreesAtOnce) {
  const Scratch scratch;
  LeaseOptions patient = quick();
  patient.timeout_s = 60;
  const double took_s = seconds_of([&] {
    for (std::int64_t epoch = 1; epoch <= 4; ++epoch) {
      Lease lease(scratch.path(), me(), patient);
      EXPECT_EQ(lease.epoch(), epoch);
      EXPECT_TRUE(lease.still_mine());
    }
  });
  EXPECT_LT(took_s, 5);
  EXPECT_TRUE(look_at_lease(scratch.path()).record->ended);
  EXPECT_TRUE(leftovers(scratch.path()).empty());
}

TEST(Lease, EpochsGoOnAfterWhatElseIsKnown) {
  const Scratch scratch;
  LeaseOptions options = quick();
  options.after_epoch = 41;
  EXPECT_EQ(Lease(scratch.path(), me(), options).epoch(), 42);
  options.after_epoch = 3;
  EXPECT_EQ(Lease(scratch.path(), me(), options).epoch(), 43);
}

TEST(Lease, ASecondLiveRunIsRefusedAfterOneHeartbeat) {
  const Scratch scratch;
  LeaseOptions options = quick();
  options.timeout_s = 6;  // heartbeats every 0.5 s
  Lease first(scratch.path(), me(), options);
  LeaseHolder other = stranger();
  std::string said;
  const double took_s =
      seconds_of([&] { said = refusal([&] { Lease second(scratch.path(), other, options); }); });
  EXPECT_LT(took_s, 4) << "no need to wait for the whole time-out";
  EXPECT_NE(said.find("is in use by a run that is alive"), std::string::npos) << said;
  EXPECT_NE(said.find(first.epoch() == 1 ? me().to_text() : ""), std::string::npos) << said;
  EXPECT_NE(said.find(fmt::format("kill -USR2 {}", ::getpid())), std::string::npos) << said;
  EXPECT_TRUE(first.still_mine());
  EXPECT_TRUE(leftovers(scratch.path()).empty());
}

TEST(Lease, ADeadHolderOnThisHostIsReplacedAtOnce) {
  const Scratch scratch;
  LeaseOptions patient = quick();
  patient.timeout_s = 60;
  EXPECT_EQ(in_a_child([&] {
              auto* never_destroyed = new Lease(scratch.path(), me(), patient);
              ::raise(SIGKILL);
              return never_destroyed->epoch() == 1 ? 0 : 1;
            }),
            128 + SIGKILL);
  EXPECT_FALSE(look_at_lease(scratch.path()).record->ended);
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), me(), patient).epoch(), 2); }), 5);
}

TEST(Lease, AnotherProcessWithTheSamePidDoesNotHoldIt) {
  const Scratch scratch;
  LeaseRecord record = record_of(me(), 5);
  record.holder.started_ticks -= 1;  // this pid, an earlier process
  leave(scratch.path(), record);
  LeaseOptions patient = quick();
  patient.timeout_s = 60;
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), me(), patient).epoch(), 6); }), 5);
}

TEST(Lease, ARequeuedJobTakesOverAtOnce) {
  const Scratch scratch;
  LeaseRecord record = record_of(stranger(), 5);
  record.holder.job = "17";
  leave(scratch.path(), record);
  LeaseHolder requeued = me();
  requeued.job = "17";
  requeued.restart = 1;
  LeaseOptions patient = quick();
  patient.timeout_s = 60;
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), requeued, patient).epoch(), 6); }), 5);
}

TEST(Lease, ASilentHolderElsewhereIsReplacedAfterTheTimeOutAndNotBefore) {
  const Scratch scratch;
  leave(scratch.path(), record_of(stranger(), 5));
  EXPECT_GE(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), me(), quick()).epoch(), 6); }),
            kTimeout_s);
}

TEST(Lease, AHeartbeatThatComesLateStillCounts) {
  const Scratch scratch;
  LeaseRecord record = record_of(stranger(), 5);
  leave(scratch.path(), record);
  std::thread late([&] {
    sleep_s(kTimeout_s / 2);
    ++record.beats;
    leave(scratch.path(), record);
  });
  const std::string said = refusal([&] { Lease(scratch.path(), me(), quick()); });
  late.join();
  EXPECT_NE(said.find("host elsewhere"), std::string::npos) << said;
}

TEST(Lease, AStopEndsTheWait) {
  const Scratch scratch;
  leave(scratch.path(), record_of(stranger(), 5));
  const std::string before = read_text_file(scratch.path() / Lease::kName, 1 << 20, ExitCode::data);
  StopSource source;
  LeaseOptions options = quick();
  options.timeout_s = 60;
  options.stop = source.token();
  std::thread signal([&] {
    sleep_s(0.1);
    source.request(SIGTERM);
  });
  EXPECT_LT(seconds_of([&] {
              refusal([&] { Lease(scratch.path(), me(), options); }, ExitCode::preempted);
            }),
            5);
  signal.join();
  EXPECT_EQ(read_text_file(scratch.path() / Lease::kName, 1 << 20, ExitCode::data), before);
}

TEST(Lease, OfManyThreadsThatTakeAtTheSameInstantOneWins) {
  for (int round = 0; round < 4; ++round) {
    const Scratch scratch;
    if (round % 2 == 1) leave(scratch.path(), record_of(stranger(), 5));  // free after the time-out
    std::atomic<int> winners{0}, refused{0};
    std::atomic<int> ready{0};
    std::vector<std::thread> takers;
    constexpr int kTakers = 8;
    for (int taker = 0; taker < kTakers; ++taker) {
      takers.emplace_back([&] {
        ++ready;
        while (ready < kTakers) std::this_thread::yield();
        try {
          Lease lease(scratch.path(), me(), quick());
          ++winners;
          while (winners + refused < kTakers) sleep_s(0.005);
          EXPECT_TRUE(lease.still_mine());
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::environment) << error.what();
          ++refused;
        }
      });
    }
    for (std::thread& taker : takers) taker.join();
    EXPECT_EQ(winners, 1) << "round " << round;
    EXPECT_EQ(refused, kTakers - 1) << "round " << round;
    EXPECT_TRUE(leftovers(scratch.path()).empty());
  }
}

TEST(Lease, OfManyProcessesThatTakeAtTheSameInstantOneWins) {
  constexpr int kTakers = 8, kWon = 10, kRefused = 20;
  for (int round = 0; round < 2; ++round) {
    const Scratch scratch;
    leave(scratch.path(), record_of(stranger(), 5));
    int go[2];
    ASSERT_EQ(::pipe(go), 0);
    std::vector<pid_t> children;
    for (int taker = 0; taker < kTakers; ++taker) {
      const pid_t child = ::fork();
      if (child == 0) {
        char byte;
        ::close(go[1]);
        if (::read(go[0], &byte, 1) != 0) ::_exit(1);  // until the parent lets all go
        try {
          Lease lease(scratch.path(), me(), quick());
          sleep_s(4 * kTimeout_s);  // longer than any of the others watches
          ::_exit(lease.still_mine() ? kWon : 2);
        } catch (const Error& error) {
          ::_exit(error.code() == ExitCode::environment ? kRefused : 3);
        }
      }
      children.push_back(child);
    }
    ::close(go[0]);
    ::close(go[1]);
    int won = 0, refused = 0;
    for (const pid_t child : children) {
      int status = 0;
      ::waitpid(child, &status, 0);
      ASSERT_TRUE(WIFEXITED(status));
      won += WEXITSTATUS(status) == kWon;
      refused += WEXITSTATUS(status) == kRefused;
    }
    EXPECT_EQ(won, 1) << "round " << round;
    EXPECT_EQ(refused, kTakers - 1) << "round " << round;
  }
}

TEST(Lease, AHolderThatWasStoppedFindsItsSuccessorBeforeItDoesAnything) {
  const Scratch scratch;
  int told[2], go[2];
  ASSERT_EQ(::pipe(told), 0);
  ASSERT_EQ(::pipe(go), 0);
  const pid_t stopped = ::fork();
  if (stopped == 0) {
    Lease lease(scratch.path(), me(), quick());
    char byte = 'x';
    if (::write(told[1], &byte, 1) != 1 || ::read(go[0], &byte, 1) != 1) ::_exit(1);
    try {
      lease.check();  // the first thing it does when it goes on
    } catch (const Error& error) {
      const std::string_view said = error.what();
      const bool clear = said.find("was taken over by another run") != said.npos &&
                         said.find("epoch 2 after this run's 1") != said.npos;
      ::_exit(error.code() == ExitCode::environment && clear && !lease.still_mine() ? 0 : 2);
    }
    ::_exit(3);
  }
  char byte = 'x';
  ASSERT_EQ(::read(told[0], &byte, 1), 1);
  ::kill(stopped, SIGSTOP);
  std::optional<Lease> successor;
  EXPECT_GE(seconds_of([&] { successor.emplace(scratch.path(), me(), quick()); }), kTimeout_s);
  EXPECT_EQ(successor->epoch(), 2);
  ASSERT_EQ(::write(go[1], &byte, 1), 1);
  ::kill(stopped, SIGCONT);
  int status = 0;
  ::waitpid(stopped, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  sleep_s(kTimeout_s / 2);
  EXPECT_TRUE(successor->still_mine());
  const LeaseSight sight = look_at_lease(scratch.path());
  EXPECT_EQ(sight.epoch, 2);
  EXPECT_GT(sight.record->beats, 0);
  EXPECT_FALSE(sight.record->ended) << "the end of the first says nothing of the second";
  for (const int end : {told[0], told[1], go[0], go[1]}) ::close(end);
}

TEST(Lease, APredecessorThatComesLateIsOverruled) {
  const Scratch scratch;
  Lease lease(scratch.path(), me(), quick());
  ASSERT_EQ(lease.epoch(), 1);
  // The claim of epoch 2 was made and its taker slept before it put the file in its place; epoch 3
  // is another's. Now the taker of 2 wakes up and overwrites what epoch 3 had put there.
  std::ofstream(scratch.path() / ".lease-00000003") << to_text(record_of(stranger(), 3));
  leave(scratch.path(), record_of(stranger(), 2));
  EXPECT_EQ(look_at_lease(scratch.path()).epoch, 3);
  EXPECT_FALSE(lease.still_mine());
}

TEST(Lease, WhatIsDeletedOrOverwrittenUnderAHolderIsPutBack) {
  const Scratch scratch;
  Lease lease(scratch.path(), me(), quick());
  const auto is_put_back = [&] {
    for (int attempt = 0; attempt < 200; ++attempt, sleep_s(0.02)) {
      const LeaseSight sight = look_at_lease(scratch.path());
      if (sight.record && sight.record->epoch == 1 && fs::exists(scratch.path() / Lease::kName) &&
          sight.record->holder == me() && sight.record->beats > 0)
        return true;
    }
    return false;
  };
  fs::remove(scratch.path() / Lease::kName);
  EXPECT_TRUE(is_put_back());
  fs::remove(scratch.path() / Lease::kName);
  fs::remove(scratch.path() / ".lease-00000001");
  EXPECT_TRUE(is_put_back());
  fs::remove(scratch.path() / Lease::kName);
  std::ofstream(scratch.path() / Lease::kName) << "not a lease";
  EXPECT_TRUE(is_put_back());
  EXPECT_TRUE(lease.still_mine());
  refusal([&] { Lease second(scratch.path(), me(), quick()); });
}

TEST(Lease, ADamagedFileIsNoHolderThatCanBeJudgedSoItIsWatched) {
  const Scratch scratch;
  std::ofstream(scratch.path() / Lease::kName) << "not a lease";
  EXPECT_GE(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), me(), quick()).epoch(), 2); }),
            kTimeout_s);
}

TEST(Lease, ADamagedFileBesideAClaimIsAsGoodAsTheClaim) {
  const Scratch scratch;
  LeaseRecord record = record_of(me(), 8);
  record.holder.started_ticks -= 1;  // dead
  std::ofstream(scratch.path() / ".lease-00000008") << to_text(record);
  std::ofstream(scratch.path() / Lease::kName) << "not a lease";
  LeaseOptions patient = quick();
  patient.timeout_s = 60;
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(Lease(scratch.path(), me(), patient).epoch(), 9); }), 5);
}

TEST(Lease, AFolderThatCannotBeReadIsSaid) {
  const Scratch scratch;
  fs::create_directory(scratch.path() / Lease::kName);  // what should be a file
  const std::string said = refusal([&] { Lease(scratch.path(), me(), quick()); });
  EXPECT_NE(said.find("lease.json cannot be read (Is a directory)"), std::string::npos) << said;
  const std::string gone = refusal([&] { Lease(scratch.path() / "gone", me(), quick()); });
  EXPECT_NE(gone.find("gone cannot be read"), std::string::npos) << gone;
}

TEST(Lease, WhoeverStaysAfterTheLossIsEnded) {
  const Scratch scratch;
  std::atomic<bool> ended{false};
  LeaseOptions options = quick();
  options.overstayed = [&](const std::string& sentence) {
    EXPECT_NE(sentence.find("was taken over"), std::string::npos) << sentence;
    ended = true;
  };
  Lease lease(scratch.path(), me(), options);
  std::ofstream(scratch.path() / ".lease-00000002") << to_text(record_of(stranger(), 2));
  const double took_s = seconds_of([&] {
    while (!ended) sleep_s(0.01);
  });
  EXPECT_GE(took_s, kTimeout_s / 2);
}

TEST(Lease, AFullDiskStopsNoHeartbeat) {
  testing::SmallDisk disk(1 << 20);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  Lease lease(disk.path(), me(), quick());
  {
    std::ofstream ballast(disk.path() / "ballast");
    const std::string block(4096, 'x');
    while (ballast.write(block.data(), 4096)) continue;
  }
  ASSERT_EQ(disk.free_bytes(), 0u);
  const std::int64_t before = look_at_lease(disk.path()).record->beats;
  sleep_s(kTimeout_s);
  EXPECT_GT(look_at_lease(disk.path()).record->beats, before);
  EXPECT_TRUE(lease.still_mine());
}

}  // namespace
}  // namespace trestle::checkpoint
