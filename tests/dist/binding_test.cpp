#include "dist/binding.h"

#include <gtest/gtest.h>

#include <numeric>

namespace trestle::dist {
namespace {

std::vector<int> cpus(int first, int last) {
  std::vector<int> numbers(last - first + 1);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

Binding binding(std::string host, std::vector<int> allowed, int threads, int host_cpus = 16,
                bool pinned = false) {
  return {std::move(host), std::move(allowed), threads, host_cpus, pinned};
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

TEST(Binding, ThisProcessHasCpus) {
  const Binding mine = this_process();
  EXPECT_FALSE(mine.host.empty());
  ASSERT_FALSE(mine.cpus.empty());
  EXPECT_GE(mine.cpus.front(), 0);
  EXPECT_GE(mine.host_cpus, 1);
}

TEST(Binding, LinesGroupRanksThatAreAlike) {
  const BindingReport report = judge({binding("n1", cpus(0, 7), 4), binding("n1", cpus(0, 7), 4),
                                      binding("n2", {0, 1, 2, 3, 8}, 1), binding("n2", {9}, 1)});
  EXPECT_EQ(report.lines,
            (std::vector<std::string>{
                "host n1: ranks 0-1 on CPUs 0-7 with 4 threads each",
                "host n2: rank 2 on CPUs 0-3,8 with 1 thread; rank 3 on CPU 9 with 1 thread"}));
  EXPECT_TRUE(report.warnings.empty());
}

TEST(Binding, SharingIsFineWhileThreadsFit) {
  EXPECT_TRUE(judge({binding("n1", cpus(0, 3), 2), binding("n1", cpus(0, 3), 2)}).warnings.empty());
  const auto warnings =
      judge({binding("n1", cpus(0, 3), 2), binding("n1", cpus(0, 3), 3)}).warnings;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(contains(warnings[0], "ranks 0-1 on n1 share CPUs 0-3: 5 threads for 4 CPUs"))
      << warnings[0];
  EXPECT_TRUE(contains(warnings[0], "--bind-to none")) << warnings[0];
  EXPECT_TRUE(contains(warnings[0], "slot:PE=8")) << warnings[0];
}

TEST(Binding, SharingIsFollowedThroughOthers) {
  // Ranks 0 and 2 meet only through rank 1; rank 3 is apart.
  const auto warnings = judge({binding("n1", {0, 1}, 2), binding("n1", {1, 2}, 2),
                               binding("n1", {2, 3}, 2), binding("n1", {4, 5}, 2)})
                            .warnings;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(contains(warnings[0], "ranks 0-2 on n1 share CPUs 0-3: 6 threads for 4 CPUs"))
      << warnings[0];
  EXPECT_TRUE(contains(warnings[0], "about 1.5 times as long")) << warnings[0];
}

TEST(Binding, SameCpusOfDifferentHostsAreDifferent) {
  EXPECT_TRUE(judge({binding("n1", {0}, 1), binding("n2", {0}, 1)}).warnings.empty());
  EXPECT_EQ(judge({binding("n1", {0}, 1), binding("n1", {0}, 1)}).warnings.size(), 1u);
}

TEST(Binding, MoreThreadsThanCpus) {
  const auto warnings = judge({binding("n1", {0}, 4), binding("n1", {1}, 1)}).warnings;
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(contains(warnings[0], "rank 0 on n1 has 4 threads for CPU 0 (")) << warnings[0];
  EXPECT_TRUE(contains(warnings[0], "OMP_NUM_THREADS=1")) << warnings[0];
  // Also inside a group that has room as a whole.
  EXPECT_EQ(judge({binding("n1", {0}, 4), binding("n1", cpus(0, 7), 1)}).warnings.size(), 1u);
}

TEST(Binding, MpirunPinningThatLeavesTheHostIdle) {
  const auto pinned =
      judge({binding("n1", {0}, 1, 16, true), binding("n1", {1}, 1, 16, true)}).warnings;
  ASSERT_EQ(pinned.size(), 1u);
  EXPECT_TRUE(contains(pinned[0], "ranks 0-1 use 2 of the 16 CPUs of n1 (mpirun pins"))
      << pinned[0];
  EXPECT_TRUE(contains(pinned[0], "slot:PE=8")) << pinned[0];
  EXPECT_TRUE(
      judge({binding("n1", {0}, 1, 2, true), binding("n1", {1}, 1, 2, true)}).warnings.empty());
  EXPECT_TRUE(judge({binding("n1", {0}, 1, 16, false)}).warnings.empty());
}

TEST(ChooseThreads, SharesTheHostsCpus) {
  std::vector<Binding> bindings{
      binding("n1", cpus(0, 7), 0), binding("n1", cpus(0, 7), 0),  // unbound: 8 / 2
      binding("n2", cpus(0, 3), 0), binding("n2", cpus(4, 7), 0),  // bound apart: their own 4
      binding("n3", {0}, 0),        binding("n3", {0}, 0),         // pinned together: at least 1
      binding("n4", {0}, 0),        binding("n4", cpus(0, 7), 0),  // never more than one's own
      binding("n5", cpus(0, 7), 3)};                               // chosen by the user: stays
  choose_threads(bindings);
  std::vector<int> threads;
  for (const Binding& b : bindings) threads.push_back(b.threads);
  EXPECT_EQ(threads, (std::vector<int>{4, 4, 4, 4, 1, 1, 1, 4, 3}));
}

TEST(GatherBindings, OneRank) {
  const Binding mine = binding("a-host.b", {0, 5, 9}, 2, 12, true);
  EXPECT_EQ(gather_bindings(Communicator::self(), mine), std::vector<Binding>{mine});
}

}  // namespace
}  // namespace trestle::dist
