// The engine's own shards, saved on N ranks and loaded on M, in every shard mode: the checkpoint
// that the M ranks write then has every bit of the first.
#include "checkpoint/compare.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"
#include "tests/support/scratch.h"
#include "tests/trainers/random_task.h"
#include "trainers/engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::trainers {
namespace {

namespace fs = std::filesystem;
using checkpoint::Scope;
using testing::RandomTask;
using testing::ScratchFolder;

constexpr int kWorlds[] = {1, 2, 3, 4, 8};

/// A model in three groups with averages, divided over the ranks in that mode.
class EngineOfRank {
 public:
  EngineOfRank(const dist::Communicator& world, dist::ShardMode shard)
      : task_({.seed = 4, .lives = true}),
        collectives_(dist::make_collectives(world, "gradients")),
        engine_(task_, *collectives_,
                {.reducer = {.shard = shard},
                 .bucket_bytes = 3000,
                 .averages = {{.name = "ema", .options = {.decay = 0.9}},
                              {.name = "ema.fast", .options = {.decay = 0.5}}},
                 .every_group = {.adamw = {}, .schedule = {}},
                 .groups = {},
                 .make_optimizer = EngineOptions::fused_adamw}) {}

  checkpoint::Visitor visitor() {
    return [this](Scope& root) { engine_.state(root); };
  }

 private:
  RandomTask task_;
  std::unique_ptr<dist::Collectives> collectives_;
  Engine engine_;
};

fs::path save(const dist::Communicator& world, EngineOfRank& engine, const fs::path& folder,
              std::int64_t step) {
  return checkpoint::save(world, checkpoint::collect(engine.visitor()),
                          {.folder = folder, .step = step, .recipe_toml = {}, .recipe_hash = {}});
}

/// Loads on as many ranks and saves what they then have.
fs::path through(int ranks, dist::ShardMode shard, const fs::path& from, const fs::path& folder) {
  fs::path made;
  dist::simulate(ranks, [&](const dist::Communicator& world) {
    EngineOfRank engine(world, shard);
    const auto report = world.agreed([&] { return checkpoint::load(from, engine.visitor()); });
    EXPECT_LE(report.bytes_read, report.bytes_wanted + 2 * checkpoint::kBlockBytes * report.pieces);
    const fs::path path = save(world, engine, folder, 0);
    if (world.is_root()) made = path;
  });
  return made;
}

TEST(AnyWorld, TakesTheEnginesShardsOfAnyOther) {
  const ScratchFolder scratch;
  fs::path first;
  {
    const auto alone = dist::Communicator::self();
    EngineOfRank engine(alone, dist::ShardMode::none);
    at::Generator generator = at::detail::createCPUGenerator(9);
    const checkpoint::StateTree tree = checkpoint::collect(engine.visitor());
    for (const checkpoint::StateEntry& entry : tree.tensors) {
      const at::NoGradGuard no_grad;
      at::Tensor values = entry.tensor;  // the engine's own memory
      values.copy_(at::randn(values.sizes(), generator, at::kDouble));
    }
    first = save(alone, engine, scratch.path() / "first", 0);
  }
  const checkpoint::Manifest truth = checkpoint::read_manifest(first);
  EXPECT_GE(truth.tensors.size(), 30u);
  constexpr dist::ShardMode kModes[] = {dist::ShardMode::none, dist::ShardMode::optimizer,
                                        dist::ShardMode::gradients};
  std::size_t pairs = 0;
  for (const int writers : kWorlds) {
    const dist::ShardMode written_as = kModes[pairs % 3];
    const fs::path between = through(writers, written_as, first, scratch.path() / "between");
    for (const int readers : kWorlds) {
      const fs::path last =
          through(readers, kModes[(pairs + 1 + pairs / 3) % 3], between, scratch.path() / "last");
      const checkpoint::Manifest manifest = checkpoint::read_manifest(last);
      const checkpoint::Comparison comparison =
          checkpoint::compare({first, truth}, {last, manifest});
      EXPECT_TRUE(comparison.tensors.empty()) << writers << " wrote, " << readers << " read";
      EXPECT_TRUE(comparison.values.empty()) << writers << " wrote, " << readers << " read";
      EXPECT_EQ(comparison.equal_tensors, truth.tensors.size());
      ++pairs;
    }
  }
  EXPECT_EQ(pairs, 25u);
}

}  // namespace
}  // namespace trestle::trainers
