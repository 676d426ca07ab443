// What becomes of a task's metrics: over micro batches and ranks, with ranks that lack some.
#include "trainers/task_metrics.h"

#include "base/error.h"
#include "dist/simulated.h"
#include "trainers/tally.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace trestle::trainers {
namespace {

using Values = std::map<std::string, double>;

at::Tensor values(std::initializer_list<double> list) { return at::tensor(list, at::kDouble); }

TEST(Metrics, AddUpOverMicroBatches) {
  Metrics both, second;
  both.mean("a", values({1, 2}));
  both.max("b", values({-3, -2}));
  both.binned("c", values({1, 2, 4}), values({0, 1.9, 7}), 4);
  second.mean("a", values({6}));
  second.max("b", values({-5}));
  second.binned("c", values({4}), values({-1}), 4);
  second.max("d", values({1}).to(at::kFloat).requires_grad_());
  both.add(second);
  const MetricNames& names = both.names();
  EXPECT_EQ(names.values(both.numbers(names)),
            (Values{{"a", 3}, {"b", -2}, {"c/0", 2.5}, {"c/1", 2}, {"c/3", 4}, {"d", 1}}));
  EXPECT_EQ(MetricNames::of_text(names.to_text()).shapes(), names.shapes());
}

TEST(Metrics, AreThoseOfAllRanks) {
  for (const int ranks : {1, 2, 5}) {
    dist::simulate(ranks, [&](const dist::Communicator& world) {
      Metrics mine;
      mine.mean("rank", values({double(world.rank())}));
      if (world.rank() == ranks - 1) mine.max("last", values({2, 7}));
      if (world.rank() == 0) mine.binned("first", values({3}), values({1}), 2);
      const Values expected{{"first/1", 3}, {"last", 7}, {"rank", double(ranks - 1) / 2}};
      MetricNames names;
      EXPECT_EQ(names.values(merge_metrics(world, mine, names)), expected) << ranks;
    });
  }
}

TEST(Metrics, TravelWithTheTallyOnceTheirNamesAreKnown) {
  dist::simulate(3, [](const dist::Communicator& world) {
    MetricNames names;
    names.add("a", {});
    names.add("b", {.kind = MetricNames::Kind::max});
    names.add("nobody's", {.kind = MetricNames::Kind::max});
    Metrics mine;
    mine.mean("a", values({double(world.rank()), 1}));
    if (world.rank() == 1) mine.max("b", values({-1}));
    Tally tally;
    tally.loss.add(0.5);
    tally.flags[Tally::late] = world.rank();
    tally.metrics = mine.numbers(names);
    tally.sum_over(world, names);
    EXPECT_EQ(tally.loss.value(), 1.5);
    EXPECT_EQ(tally.flags[Tally::late], 3);
    EXPECT_EQ(names.values(tally.metrics), (Values{{"a", 1}, {"b", -1}}));
  });
}

TEST(Metrics, WhatIsNotFiniteShows) {
  Metrics metrics;
  metrics.mean("a", values({1, std::nan("")}));
  metrics.max("b", values({1, std::nan("")}));
  const auto found = metrics.names().values(metrics.numbers(metrics.names()));
  EXPECT_TRUE(std::isnan(found.at("a")));
  EXPECT_TRUE(std::isnan(found.at("b")));
}

TEST(Metrics, RefuseNamesThatMeanTwoThings) {
  Metrics metrics;
  metrics.mean("a", values({1}));
  EXPECT_THROW(metrics.mean("a", values({1})), std::logic_error);
  EXPECT_THROW(metrics.mean("a name", values({1})), std::logic_error);
  EXPECT_THROW(metrics.binned("c", values({1, 2}), values({0}), 2), std::logic_error);
  Metrics other;
  other.max("a", values({1}));
  EXPECT_THROW(metrics.add(other), std::logic_error);
}

}  // namespace
}  // namespace trestle::trainers
