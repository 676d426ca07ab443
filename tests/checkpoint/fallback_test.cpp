// Where a run goes back to when its newest checkpoint is damaged, and what is not damage.
#include "base/digest.h"
#include "base/files.h"
#include "checkpoint/epochs.h"
#include "checkpoint/find.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// Stands in front of the C library, so that a test can have a disk that answers with errors.
namespace {
std::atomic<bool> reads_work = true;
}  // namespace

extern "C" ssize_t preadv(int descriptor, const iovec* places, int count, off_t offset) {
  if (!reads_work) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_preadv, descriptor, places, count, offset, 0);
}

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

constexpr const char* kShard = "shard-00001-of-00002.h5";

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name != "latest") names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

using Names = std::vector<std::string>;

/// Checkpoints of steps 10, 20 and 30, each of a state of its own.
class Fallback : public ::testing::Test {
 protected:
  Fallback() {
    for (const int step : {10, 20, 30}) {
      TestState state(static_cast<std::uint64_t>(step));
      save_as(2, state, folder_.path(), step);
    }
  }

  fs::path path(int step) const { return folder_.path() / fmt::format("step-{:08}", step); }

  void damage(int step, const char* file = kShard) {
    std::fstream stream(path(step) / file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(0, std::ios::end);
    const auto middle = stream.tellg() / 2;
    stream.seekg(middle);
    const char byte = static_cast<char>(stream.get() ^ 16);
    stream.seekp(middle);
    stream.put(byte);
    ASSERT_TRUE(stream.good());
  }

  /// Loads on as many ranks; all must come to the same. "" where there is nothing, the error's text
  /// where it fails.
  std::string load_on(int ranks, const FallbackOptions& options = {}) {
    std::vector<std::string> results(static_cast<std::size_t>(ranks));
    dist::simulate(ranks, [&](dist::Communicator comm) {
      std::string& mine = results[static_cast<std::size_t>(comm.rank())];
      try {
        TestState loaded(0);
        const auto found = load_newest(comm, folder_.path(), options, [&](const fs::path& from) {
          load(from, loaded.visitor());
          if (fails_on && comm.rank() == ranks - 1) fails_on(from);
        });
        if (!found) return;
        mine = found->filename().string();
        const auto step = static_cast<std::uint64_t>(*step_of(*found));
        EXPECT_TRUE(same_state(loaded, TestState(step)));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::checkpoint);
        mine = error.what();
      }
    });
    for (const std::string& result : results) EXPECT_EQ(result, results.front());
    return results.front();
  }

  ScratchFolder folder_;
  std::function<void(const fs::path&)> fails_on;  ///< of the last rank alone
};

TEST_F(Fallback, WholeOnesAreNotTouched) {
  EXPECT_EQ(load_on(3), "step-00000030");
  EXPECT_EQ(names_in(folder_.path()), (Names{"step-00000010", "step-00000020", "step-00000030"}));
}

TEST_F(Fallback, ADamagedOneIsRenamedAndTheOneBeforeUsed) {
  damage(30);
  EXPECT_EQ(load_on(2), "step-00000020");
  EXPECT_EQ(names_in(folder_.path()),
            (Names{"step-00000010", "step-00000020", "step-00000030.damaged"}));
  // The run comes to step 30 again, and that is damaged, too.
  TestState again(30);
  save_as(2, again, folder_.path(), 30);
  damage(30);
  damage(20, "manifest.json");
  EXPECT_EQ(load_on(4), "step-00000010");
  EXPECT_EQ(names_in(folder_.path()), (Names{"step-00000010", "step-00000020.damaged",
                                             "step-00000030.damaged", "step-00000030.damaged.2"}));
}

TEST_F(Fallback, EveryKindOfDamageFallsBack) {
  fs::remove(path(30) / kShard);
  EXPECT_EQ(load_on(1), "step-00000020");
  fs::resize_file(path(20) / kShard, 100);
  EXPECT_EQ(load_on(1), "step-00000010");
  TestState again(20);
  save_as(2, again, folder_.path(), 20);
  fs::remove(path(20) / "manifest.json");
  EXPECT_EQ(load_on(1), "step-00000010");
  save_as(2, again, folder_.path(), 20);
  fs::remove_all(path(20));
  write_file_durable(path(20), "no folder", ExitCode::environment);
  EXPECT_EQ(load_on(1), "step-00000010");
}

TEST_F(Fallback, WhatOneRankSeesCountsForAll) {
  fails_on = [&](const fs::path& from) {
    if (from == path(30)) throw DamageError("seen here alone", {kShard, 0, 1, "tensor x"});
  };
  for (const int ranks : {2, 5}) {
    EXPECT_EQ(load_on(ranks), "step-00000020");
    EXPECT_EQ(names_in(folder_.path()),
              (Names{"step-00000010", "step-00000020", "step-00000030.damaged"}));
    fs::rename(folder_.path() / "step-00000030.damaged", path(30));
  }
}

TEST_F(Fallback, AnErrorThatIsNoDamageRenamesNothing) {
  const Names before = names_in(folder_.path());
  fails_on = [](const fs::path&) { fail(ExitCode::checkpoint, "another model"); };
  EXPECT_NE(load_on(3).find("another model"), std::string::npos);
  EXPECT_EQ(names_in(folder_.path()), before);

  // Not even where another rank finds damage at the same time.
  damage(30);
  fails_on = nullptr;
  std::atomic<int> thrown = 0;
  dist::simulate(2, [&](dist::Communicator comm) {
    TestState loaded(0);
    try {
      load_newest(comm, folder_.path(), {}, [&](const fs::path& from) {
        if (comm.is_root()) fail(ExitCode::checkpoint, "no rights");
        load(from, loaded.visitor());
      });
    } catch (const Error& error) {
      ++thrown;
      EXPECT_NE(std::string(error.what()).find("no rights"), std::string::npos) << error.what();
    }
  });
  EXPECT_EQ(thrown, 2);
  EXPECT_EQ(names_in(folder_.path()), before);
}

TEST_F(Fallback, ADiskThatAnswersWithErrorsRenamesNothing) {
  const Names before = names_in(folder_.path());
  reads_work = false;
  const std::string message = load_on(2);
  reads_work = true;
  EXPECT_NE(message.find("Input/output error"), std::string::npos) << message;
  EXPECT_EQ(names_in(folder_.path()), before);
  EXPECT_EQ(load_on(2), "step-00000030");
}

TEST_F(Fallback, ALaterVersionOfTheFormatIsNotPassedOver) {
  const fs::path file = path(30) / kManifestName;
  nlohmann::json manifest =
      nlohmann::json::parse(read_text_file(file, 1 << 24, ExitCode::environment));
  manifest["format_version"] = 2;
  manifest.erase("digest");
  manifest["digest"] = digest_128(manifest.dump());
  write_file_durable(file, manifest.dump(1) + "\n", ExitCode::environment);
  EXPECT_NE(load_on(2).find("format_version 2"), std::string::npos);
  EXPECT_TRUE(fs::exists(path(30)));
}

TEST_F(Fallback, AFolderThatCannotBeListedIsNoEmptyOne) {
  fs::create_symlink("loop", folder_.path() / "loop");
  EXPECT_THROW(candidates(folder_.path() / "loop"), Error);
  EXPECT_TRUE(candidates(folder_.path() / "missing").empty());
}

TEST_F(Fallback, NothingIsBegunAnewUnaskedWhenAllAreDamaged) {
  for (const int step : {10, 20, 30}) damage(step);
  const FallbackOptions options{.way_out = "begin anew with --resume never"};
  std::string message = load_on(2, options);
  for (const char* part : {"No checkpoint in", "is whole (3 damaged", "step-00000030",
                           "Put a copy of one there, or begin anew with --resume never."})
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nis not in\n" << message;
  EXPECT_EQ(names_in(folder_.path()),
            (Names{"step-00000010.damaged", "step-00000020.damaged", "step-00000030.damaged"}));
  message = load_on(1, options);  // the same at the next start
  EXPECT_NE(message.find("3 damaged"), std::string::npos) << message;
  forget_set_aside(folder_.path());
  EXPECT_EQ(load_on(2, options), "");
  EXPECT_EQ(names_in(folder_.path()).front(), "before-restart-step-00000010.damaged");
}

TEST_F(Fallback, AnotherRunsCheckpointsAreLeftAsTheyAre) {
  const Names before = names_in(folder_.path());
  damage(30);
  EXPECT_EQ(load_on(2, {.damaged = Damaged::leave}), "step-00000020");
  EXPECT_EQ(names_in(folder_.path()), before);
  for (const int step : {10, 20}) damage(step);
  EXPECT_NE(
      load_on(2, {.damaged = Damaged::leave, .way_out = "name another"}).find("or name another"),
      std::string::npos);
  EXPECT_EQ(names_in(folder_.path()), before);
}

TEST_F(Fallback, SupersededOnesAreNeverChosen) {
  // Steps above 10 were saved by a run that another had taken over at step 10.
  Epochs epochs = Epochs::read(folder_.path());
  epochs.record({.epoch = 1, .holder = "the other", .from_step = 10});
  const Names before = names_in(folder_.path());
  EXPECT_EQ(load_on(2), "step-00000010");
  EXPECT_EQ(newest(folder_.path()), path(10));
  EXPECT_EQ(names_in(folder_.path()), before);
}

TEST_F(Fallback, AnEmptyFolderIsNoError) {
  for (const int step : {10, 20, 30}) fs::remove_all(path(step));
  EXPECT_EQ(load_on(3), "");
  fs::remove_all(folder_.path());
  EXPECT_EQ(load_on(2), "");
  fs::create_directory(folder_.path());
}

TEST_F(Fallback, PathsMeanACheckpointOrARun) {
  EXPECT_EQ(folder_of_checkpoints(path(10)), std::nullopt);
  EXPECT_EQ(folder_of_checkpoints(folder_.path()), folder_.path());
  const fs::path run = folder_.path() / "run";
  fs::create_directories(run / "checkpoints");
  EXPECT_THROW(folder_of_checkpoints(run), Error);
  fs::rename(path(30), run / "checkpoints" / "step-00000030");
  EXPECT_EQ(folder_of_checkpoints(run), run / "checkpoints");
  fs::rename(path(20), run / "any name");
  EXPECT_EQ(folder_of_checkpoints(run / "any name"), std::nullopt);
}

}  // namespace
}  // namespace trestle::checkpoint
