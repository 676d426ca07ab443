// The ranks' common knowledge of bad samples.
#include "data/bad_samples.h"

#include "dist/simulated.h"
#include "tests/formats/hostile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

namespace trestle::data {
namespace {

using trestle::testing::refusal;

std::vector<Replacement> replacements(std::initializer_list<SampleId> ids) {
  std::vector<Replacement> list;
  for (const SampleId id : ids) list.push_back({{100 + id}, id, fmt::format("list:{}: odd", id)});
  return list;
}

TEST(BadSamples, EveryRankLearnsAllAndEachIsSaidOnce) {
  std::mutex mutex;
  std::vector<std::vector<std::string>> said;
  dist::simulate(3, [&](dist::Communicator world) {
    BadSamples bad(9);
    EXPECT_FALSE(bad.has_news());
    EXPECT_TRUE(bad.merge(world, false).empty());
    if (world.rank() == 0) bad.note(replacements({7, 2, 7}));
    if (world.rank() == 2) bad.note(replacements({2, 1000000007}));
    EXPECT_EQ(bad.has_news(), world.rank() != 1);
    auto lines = bad.merge(world, true);
    EXPECT_EQ(bad.to_text(), "2 7 1000000007");
    EXPECT_EQ(bad.count(), 3);
    {
      const std::scoped_lock lock(mutex);
      said.push_back(lines);
    }
    if (world.rank() == 1) bad.note(replacements({2, 7}));  // by now known everywhere
    EXPECT_FALSE(bad.has_news());
    if (world.rank() == 1) bad.note(replacements({3, 7}));
    lines = bad.merge(world, true);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_NE(lines[0].find("list:3: odd"), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("4 of 9"), std::string::npos) << lines[0];
  });
  ASSERT_EQ(said[0].size(), 3U);
  EXPECT_NE(said[0][0].find("list:2: odd"), std::string::npos) << said[0][0];
  EXPECT_EQ(said[0], said[1]);
  EXPECT_EQ(said[0], said[2]);
}

TEST(BadSamples, MoreThanAllowedStopAllRanksInTheSameWords) {
  std::mutex mutex;
  std::vector<std::string> said;
  dist::simulate(2, [&](dist::Communicator world) {
    BadSamples bad(6);
    if (world.rank() == 0) bad.note(replacements({1, 2, 3, 4}));
    bad.merge(world, true);
    if (world.rank() == 1) bad.note(replacements({5, 6, 7}));
    const std::string message = refusal(ExitCode::data, [&] { bad.merge(world, true); });
    const std::scoped_lock lock(mutex);
    said.push_back(message);
  });
  EXPECT_EQ(said[0], said[1]);
  for (const char* words :
       {"7 samples", "data.max_bad = 6", "list:1: odd", "list:5: odd", "and 2 more"}) {
    EXPECT_NE(said[0].find(words), std::string::npos) << words << " in " << said[0];
  }
  EXPECT_EQ(said[0].find("list:6"), std::string::npos);
}

TEST(BadSamples, OnesFromACheckpointCountAndAreNotSaidAgain) {
  const auto alone = dist::Communicator::self();
  BadSamples before(3);
  before.note(replacements({40, 4}));
  before.merge(alone, true);
  EXPECT_EQ(before.to_text(), "4 40");

  BadSamples after(3);
  after.restore(before.to_text());
  EXPECT_EQ(after.to_text(), "4 40");
  after.note(replacements({4, 40}));
  EXPECT_FALSE(after.has_news());
  after.note(replacements({5}));
  EXPECT_EQ(after.merge(alone, after.has_news()).size(), 1U);
  after.note(replacements({6}));
  const std::string message =
      refusal(ExitCode::data, [&] { after.merge(alone, after.has_news()); });
  EXPECT_NE(message.find("4 samples"), std::string::npos) << message;
  EXPECT_NE(message.find("list:6: odd\n  and 2 more"), std::string::npos) << message;

  after.restore("");
  EXPECT_EQ(after.count(), 0);
}

TEST(BadSamples, TextThatIsNoListIsRefused) {
  for (const char* text : {"x", "1,2", "1 x", "-1", "1  2", "99999999999999999999", " 1"}) {
    BadSamples bad(3);
    EXPECT_NE(refusal(ExitCode::checkpoint, [&] { bad.restore(text); }), "") << text;
  }
}

}  // namespace
}  // namespace trestle::data
