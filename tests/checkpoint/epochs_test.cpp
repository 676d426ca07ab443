// Checkpoints of a run that was taken over are told from the others, whatever is written late.
#include "checkpoint/epochs.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using Scratch = testing::ScratchFolder;

TEST(Epochs, AreTheSameAfterReadingAgain) {
  const Scratch scratch;
  Epochs epochs = Epochs::read(scratch.path());
  EXPECT_EQ(epochs.last(), 0);
  epochs.record({.epoch = 1, .holder = "host a", .from_step = -1});
  epochs.record({.epoch = 4, .holder = "host b", .from_step = 120});
  const Epochs again = Epochs::read(scratch.path());
  EXPECT_EQ(again.starts(), epochs.starts());
  EXPECT_EQ(again.last(), 4);
}

TEST(Epochs, WhatATakenOverRunWritesLateIsSuperseded) {
  const Scratch scratch;
  Epochs epochs = Epochs::read(scratch.path());
  epochs.record({.epoch = 1, .holder = "", .from_step = -1});
  // Epoch 1 saved steps 10 and 20, hung while it saved 30, and epoch 2 went on from 20.
  epochs.record({.epoch = 2, .holder = "", .from_step = 20});
  EXPECT_FALSE(epochs.superseded(1, 10));
  EXPECT_FALSE(epochs.superseded(1, 20));
  EXPECT_TRUE(epochs.superseded(1, 30)) << "finished after the takeover";
  EXPECT_TRUE(epochs.superseded(0, 30)) << "of a program that counted no epochs";
  EXPECT_FALSE(epochs.superseded(2, 30));
  EXPECT_FALSE(epochs.superseded(3, 30));
  // Epoch 3 goes on from what epoch 2 saved later.
  epochs.record({.epoch = 3, .holder = "", .from_step = 40});
  EXPECT_TRUE(epochs.superseded(1, 30)) << "though epoch 3 knew a later step";
  EXPECT_FALSE(epochs.superseded(2, 40));
  EXPECT_TRUE(epochs.superseded(2, 50));
}

TEST(Epochs, AnEpochThatBeganFromNothingSupersedesAllBefore) {
  const Scratch scratch;
  Epochs epochs = Epochs::read(scratch.path());
  epochs.record({.epoch = 1, .holder = "", .from_step = -1});
  EXPECT_FALSE(epochs.superseded(1, 0));
  epochs.record({.epoch = 2, .holder = "", .from_step = -1});
  EXPECT_TRUE(epochs.superseded(1, 0));
  EXPECT_TRUE(epochs.superseded(0, 100));
  EXPECT_FALSE(epochs.superseded(2, 0));
}

TEST(Epochs, ForgettingChangesNoAnswer) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 20; ++round) {
    const Scratch scratch;
    std::vector<EpochStart> all;
    std::int64_t step = -1;
    for (std::int64_t epoch = 1; epoch <= 1010; ++epoch) {
      // Mostly restarts from the same step, sometimes progress, sometimes a loss.
      const auto dice = random() % 20;
      if (dice == 0) step += static_cast<std::int64_t>(random() % 50);
      if (dice == 1) step = std::max(step - static_cast<std::int64_t>(random() % 30), {-1});
      all.push_back({.epoch = epoch, .holder = "", .from_step = step});
    }
    const auto before = all.begin() + 1000;
    std::ofstream(scratch.path() / Epochs::kName) << to_text({all.begin(), before});
    Epochs epochs = Epochs::read(scratch.path());
    for (auto start = before; start != all.end(); ++start) epochs.record(*start);
    EXPECT_LE(epochs.starts().size(), 1000u);
    for (int question = 0; question < 2000; ++question) {
      const auto epoch = static_cast<std::int64_t>(random() % 1011);
      const auto asked = static_cast<std::int64_t>(random() % 1000);
      bool expected = false;
      for (const EpochStart& start : all)
        expected = expected || (start.epoch > epoch && start.from_step < asked);
      ASSERT_EQ(epochs.superseded(epoch, asked), expected) << epoch << " " << asked;
    }
  }
}

TEST(Epochs, TheFileStaysBounded) {
  const Scratch scratch;
  std::vector<EpochStart> starts;
  for (std::int64_t epoch = 1; epoch <= 1000; ++epoch)
    starts.push_back({.epoch = epoch, .holder = "host n1, pid 1, 4 ranks", .from_step = epoch});
  std::ofstream(scratch.path() / Epochs::kName) << to_text(starts);
  Epochs epochs = Epochs::read(scratch.path());
  for (std::int64_t epoch = 1001; epoch <= 1010; ++epoch)
    epochs.record({.epoch = epoch, .holder = "", .from_step = epoch});
  EXPECT_EQ(epochs.starts().size(), 1000u);
  EXPECT_EQ(epochs.starts().front().epoch, 11) << "the oldest went";
}

TEST(Epochs, AFlippedBitIsDamage) {
  const std::string text = to_text({{.epoch = 1, .holder = "host n1", .from_step = -1},
                                    {.epoch = 2, .holder = "host n2", .from_step = 7}});
  for (std::size_t place = 0; place < text.size(); ++place) {
    if (std::isspace(static_cast<unsigned char>(text[place]))) continue;
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[place] = static_cast<char>(damaged[place] ^ (1 << bit));
      try {
        parse_epochs(damaged, "epochs.json");
        ADD_FAILURE() << "accepted bit " << bit << " of byte " << place;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::checkpoint);
      }
    }
  }
}

TEST(Epochs, ADamagedFileRefusesNoCheckpointAndIsKept) {
  set_log_level(LogLevel::error);
  const Scratch scratch;
  const fs::path file = scratch.path() / Epochs::kName;
  std::ofstream(file) << "{\"format\": \"trestle-epochs\"";
  Epochs epochs = Epochs::read(scratch.path());
  EXPECT_FALSE(epochs.superseded(1, 30));
  EXPECT_TRUE(fs::exists(file)) << "who only reads changes nothing";
  epochs.record({.epoch = 9, .holder = "", .from_step = 20});
  EXPECT_EQ(read_text_file(scratch.path() / "epochs.json.damaged", 1 << 20, ExitCode::data),
            "{\"format\": \"trestle-epochs\"");
  EXPECT_TRUE(Epochs::read(scratch.path()).superseded(1, 30));
}

}  // namespace
}  // namespace trestle::checkpoint
