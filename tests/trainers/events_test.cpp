// TensorBoard events as a run writes them: observers that no disk can end a run through.
#include "trainers/metrics/events.h"

#include "base/files.h"
#include "base/log.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <fstream>

namespace trestle::trainers {
namespace {

using testing::ScratchFolder;
using testing::SmallDisk;

std::int64_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

/// What is said while `action` runs.
std::string said_by(const std::function<void()>& action) {
  const ScratchFolder scratch;
  set_log_file((scratch.path() / "log").string());
  set_log_level(LogLevel::warn);
  action();
  set_log_file("");
  return read_text_file(scratch.path() / "log", 1 << 20, ExitCode::data);
}

TEST(Events, AFileIsMadeWithTheFirstEvent) {
  const ScratchFolder scratch;
  Events events(scratch.path(), 0);
  EXPECT_EQ(files_in(scratch.path()), 0);
  events.scalars(1, {{"train/loss", 0.5}});
  events.scalars(2, {{"train/loss", 0.25}});
  EXPECT_EQ(files_in(scratch.path()), 1);
}

TEST(Events, AFullDiskIsSaidOnceAndEndsNothing) {
  SmallDisk disk(16 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  Events events(disk.path(), 0);
  const std::string said = said_by([&] {
    for (int step = 1; step <= 1000; ++step) events.scalars(step, {{"train/loss", 1.0 / step}});
  });
  EXPECT_NE(said.find("could not be written"), std::string::npos) << said;
  EXPECT_NE(said.find("The run goes on"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST(Events, AFolderThatVanishedEndsNothingAndIsUsedOnceItIsBack) {
  const ScratchFolder scratch;
  const auto folder = scratch.path() / "run";
  Events events(folder, 0);
  const std::string said = said_by([&] { events.scalars(1, {{"train/loss", 0.5}}); });
  EXPECT_NE(said.find("could not be written"), std::string::npos) << said;
  std::filesystem::create_directory(folder);
  events.scalars(2, {{"train/loss", 0.25}});
  EXPECT_EQ(files_in(folder), 1);
}

}  // namespace
}  // namespace trestle::trainers
