// The loader: order, bad samples and their replacements, and leaving while data is awaited.
#include "data/loader.h"

#include "tests/formats/hostile.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <set>
#include <thread>

namespace trestle::data {
namespace {

using trestle::testing::refusal;

/// Sample i is the number i; every third is of kind "prior".
class Numbers : public Dataset {
 public:
  Numbers(std::int64_t size, std::set<SampleId> bad) : size_(size), bad_(std::move(bad)) {}

  std::int64_t size() const override { return size_; }
  std::string_view kind(SampleId id) const override { return id % 3 == 0 ? "prior" : "number"; }
  Batch load(std::span<const SampleId> ids) const override {
    ++loads;
    if (before_load) before_load();
    for (const SampleId id : ids) {
      if (bad_.contains(id)) throw BadSample(id, reason(id));
    }
    Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors["number"] = at::tensor(at::ArrayRef<std::int64_t>(ids.data(), ids.size()));
    return batch;
  }

  bool is_bad(SampleId id) const { return bad_.contains(id); }
  static std::string reason(SampleId id) { return fmt::format("list:{}: it is odd", id + 1); }

  std::function<void()> before_load;
  mutable std::atomic<std::int64_t> loads = 0;

 private:
  std::int64_t size_;
  std::set<SampleId> bad_;
};

struct Layout {
  std::int64_t global = 10, micro = 5;
  int world = 1;
  std::int64_t workers = 1, prefetch = 4, first_step = 0;
};

/// What stands at each position of some steps: the sample, and what it replaced.
struct Place {
  SampleId id;
  std::vector<SampleId> replaced;
  bool operator==(const Place&) const = default;
};
std::map<Position, Place> places(const Dataset& dataset, std::int64_t steps, const Layout& layout) {
  std::map<Position, Place> found;
  for (int rank = 0; rank < layout.world; ++rank) {
    const BatchPlan plan(layout.global, layout.micro, rank, layout.world);
    Loader loader(dataset, Sampler(7, dataset.size()), plan, Step{layout.first_step},
                  {.workers = layout.workers, .prefetch = layout.prefetch});
    for (std::int64_t i = 0; i < (steps - layout.first_step) * plan.micro_steps(); ++i) {
      const Batch batch = loader.next();
      for (std::size_t row = 0; row < batch.ids.size(); ++row) {
        EXPECT_EQ(batch.tensor("number")[static_cast<std::int64_t>(row)].item<std::int64_t>(),
                  batch.ids[row]);
        found[batch.positions[row]].id = batch.ids[row];
      }
      for (const auto& each : batch.replaced) {
        EXPECT_EQ(each.reason, Numbers::reason(each.bad));
        EXPECT_TRUE(std::ranges::count(batch.positions, each.position));
        found[each.position].replaced.push_back(each.bad);
      }
    }
  }
  return found;
}

TEST(Loader, BadSamplesAreReplacedByTheNextGoodOnesOfTheirKindInTheEpoch) {
  const Numbers numbers(20, {3, 4, 5, 6, 7, 19});
  const Sampler sampler(7, 20);
  const auto found = places(numbers, 6, {});
  ASSERT_EQ(found.size(), 60U);
  std::vector<std::set<SampleId>> seen(3);
  for (const auto& [position, place] : found) {
    std::vector<SampleId> replaced;
    const auto kind = numbers.kind(sampler.at(position));
    std::int64_t skip = 0;
    for (; numbers.is_bad(sampler.at(position, skip)) ||
           numbers.kind(sampler.at(position, skip)) != kind;
         ++skip) {
      const SampleId id = sampler.at(position, skip);
      if (numbers.kind(id) == kind) replaced.push_back(id);
    }
    EXPECT_EQ(place.id, sampler.at(position, skip));
    EXPECT_EQ(numbers.kind(place.id), kind);
    EXPECT_EQ(place.replaced, replaced);
    seen[static_cast<std::size_t>(position.value / 20)].insert(place.id);
  }
  for (const auto& epoch : seen) EXPECT_EQ(epoch.size(), 14U);  // every good one
}

TEST(Loader, WhatStandsAtAPositionDependsOnNothingElse) {
  const Numbers numbers(13, {0, 2, 3, 11});  // 13 and 12 meet at every place of an epoch
  const auto reference = places(numbers, 8, {.global = 12, .micro = 1});
  ASSERT_EQ(reference.size(), 96U);
  for (const Layout& layout : {Layout{.global = 12, .micro = 12}, Layout{.global = 12, .world = 2},
                               Layout{.global = 12, .micro = 2, .world = 3, .workers = 4},
                               Layout{.global = 12, .workers = 3, .prefetch = 1}}) {
    EXPECT_EQ(places(numbers, 8, layout), reference);
  }
  auto late = places(numbers, 8, {.global = 12, .first_step = 5});
  for (const auto& [position, place] : late) EXPECT_EQ(place, reference.at(position));
  EXPECT_EQ(late.size(), 36U);
}

TEST(Dataset, GoodSamplesAreLoadedWithoutTheBadOnes) {
  const Numbers numbers(9, {1, 4, 8});
  EXPECT_EQ(load_good(numbers, {8, 3, 4, 2, 8}).ids, (std::vector<SampleId>{3, 2}));
  EXPECT_EQ(load_good(numbers, {4, 1}).size(), 0);
}

TEST(Loader, AKindWithoutAGoodSampleIsAnError) {
  const Numbers numbers(9, {0, 3, 6});
  Loader loader(numbers, Sampler(7, 9), BatchPlan(9, 9, 0, 1), Step{0}, {});
  const std::string said = refusal(ExitCode::data, [&] { loader.next(); });
  EXPECT_NE(said.find("no sample of kind \"prior\" can be used"), std::string::npos) << said;
  EXPECT_NE(said.find(Numbers::reason(3)), std::string::npos) << said;
}

TEST(Loader, MoreBadSamplesThanAllowedAreAnErrorThatListsThem) {
  const Numbers numbers(12, {1, 2});
  for (const std::int64_t max_bad : {0, 1, 2}) {
    Loader loader(numbers, Sampler(7, 12), BatchPlan(12, 12, 0, 1), Step{0}, {.max_bad = max_bad});
    const std::string said = refusal(ExitCode::data, [&] { loader.next(); });
    if (max_bad == 2) {
      EXPECT_EQ(said, "");
      continue;
    }
    EXPECT_NE(said.find(fmt::format("data.max_bad = {}", max_bad)), std::string::npos) << said;
    EXPECT_NE(said.find("list:"), std::string::npos) << said;
  }
}

TEST(Loader, AnErrorOfAnotherSortIsThrownWhereItsBatchWouldBe) {
  Numbers numbers(12, {});
  Loader loader(numbers, Sampler(7, 12), BatchPlan(4, 4, 0, 1), Step{0}, {});
  loader.next();
  Numbers broken(12, {});
  broken.before_load = [] { fail(ExitCode::environment, "the disk is gone"); };
  Loader other(broken, Sampler(7, 12), BatchPlan(4, 4, 0, 1), Step{0}, {});
  EXPECT_EQ(refusal(ExitCode::environment, [&] { other.next(); }), "the disk is gone");
}

TEST(Loader, AStopEndsTheWaitForData) {
  std::atomic<bool> stuck = true;
  Numbers numbers(12, {});
  numbers.before_load = [&] { stuck.wait(true); };
  StopSource source;
  {
    Loader loader(numbers, Sampler(7, 12), BatchPlan(4, 4, 0, 1), Step{0}, {}, source.token());
    std::jthread signal([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(120));
      source.request(SIGTERM);
    });
    EXPECT_NE(refusal(ExitCode::preempted, [&] { loader.next(); }).find("SIGTERM"),
              std::string::npos);
    stuck = false;
    stuck.notify_all();
  }
}

TEST(Loader, LeavingDoesNotTryAllReplacementsFirst) {
  constexpr std::int64_t kSize = 3000;
  std::set<SampleId> all;
  for (SampleId id = 0; id < kSize; ++id) all.insert(id);
  Numbers numbers(kSize, all);
  numbers.before_load = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  {
    Loader loader(numbers, Sampler(7, kSize), BatchPlan(4, 4, 0, 1), Step{0}, {.max_bad = kSize});
    while (numbers.loads < 10) std::this_thread::yield();
  }
  EXPECT_LT(numbers.loads, kSize / 2);
}

}  // namespace
}  // namespace trestle::data
