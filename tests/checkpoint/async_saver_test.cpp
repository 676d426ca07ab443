// Saving while the state goes on changing: what is waited for, what is not, and what becomes of
// saves that fail (simulated ranks: threads of this process).
#include "checkpoint/async_saver.h"

#include "base/files.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "checkpoint/verify.h"
#include "dist/simulated.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using trestle::testing::ScratchFolder;

/// Stops whoever comes to a step of a save, until it is opened; and notes who came where.
class Gate {
 public:
  Gate() { on_save_step(&Gate::hook); }
  ~Gate() {
    open();
    on_save_step(nullptr);
  }
  static void close(SaveStep at) {
    const std::lock_guard lock(mutex);
    closed = at;
  }
  static void open() {
    const std::lock_guard lock(mutex);
    closed.reset();
    changed.notify_all();
  }
  static void wait_for(SaveStep at, int times = 1) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return reached[at] >= times; });
  }
  static int times(SaveStep at) {
    const std::lock_guard lock(mutex);
    return reached[at];
  }
  static void forget() {
    const std::lock_guard lock(mutex);
    reached.clear();
  }

 private:
  static void hook(SaveStep at, std::int64_t) {
    std::unique_lock lock(mutex);
    ++reached[at];
    changed.notify_all();
    changed.wait(lock, [&] { return closed != at; });
  }
  inline static std::mutex mutex;
  inline static std::condition_variable changed;
  inline static std::optional<SaveStep> closed;
  inline static std::map<SaveStep, int> reached;
};

/// Tensors of 3 MB each that an update goes over in the opposite of the order in which they are
/// named; of two kinds, one of which ranks hold in parts.
struct LayeredState {
  static constexpr int kLayers = 6;
  static constexpr std::int64_t kElements = 750'000;
  std::vector<at::Tensor> layers, planes;  ///< planes: this rank's part
  std::int64_t begin = 0, end = kElements, step = 0;

  explicit LayeredState(int rank = 0, int world = 1)
      : begin(kElements * rank / world), end(kElements * (rank + 1) / world) {
    for (int i = 0; i < kLayers; ++i) {
      layers.push_back(at::full({kElements}, 100.0f + float(i)));
      planes.push_back((at::arange(begin, end, at::kFloat) + float(i)).contiguous());
    }
  }
  Visitor visitor() {
    return [this](Scope& root) {
      for (int i = 0; i < kLayers; ++i) {
        const Stage stage = kLayers - 1 - i;
        root.child("model").at_stage(stage).tensor(fmt::format("layer{}", i),
                                                   layers[std::size_t(i)]);
        root.child("optim").at_stage(stage).piece(fmt::format("layer{}", i), planes[std::size_t(i)],
                                                  {kElements}, static_cast<std::uint64_t>(begin));
      }
      root.number("step", step);
    };
  }
  /// In place, as an update does.
  void update(SaveUnderWay* saving) {
    for (int i = kLayers; i-- > 0;) {
      if (saving) saving->before_change(kLayers - 1 - i);
      layers[std::size_t(i)].add_(1);
      planes[std::size_t(i)].mul_(2);
    }
    ++step;
  }
};

void expect_equal_states(LayeredState& a, LayeredState& b) {
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    EXPECT_TRUE(at::equal(a.layers[i], b.layers[i])) << i;
    EXPECT_TRUE(at::equal(a.planes[i], b.planes[i])) << i;
  }
  EXPECT_EQ(a.step, b.step);
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] =
        read_text_file(entry.path(), 1 << 28, ExitCode::checkpoint);
  return files;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

SaveRequest request_in(const fs::path& folder, std::int64_t step) {
  SaveRequest request;
  request.folder = folder;
  request.step = step;
  request.recipe_hash = "0123456789abcdef";
  return request;
}

/// What a step's message does.
void exchange(AsyncSaver& saver, const dist::Communicator& comm) {
  const SaveFlags mine = saver.flags();
  std::int64_t flags[] = {mine.written, mine.failed, mine.sealed};
  comm.all_reduce(std::span(flags), dist::ReduceOp::sum);
  saver.learn({.written = flags[0], .failed = flags[1], .sealed = flags[2]});
}

std::string text_of(const std::exception_ptr& error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::exception& known) {
    return known.what();
  }
  return "no error";
}

TEST(AsyncSaver, WhatIsSavedIsTheStateAtTheBeginWhateverHappensToItMeanwhile) {
  for (int world = 1; world <= 5; ++world) {
    const ScratchFolder folder;
    for (const std::uint64_t staging : {std::uint64_t{0}, kBlockBytes, 3 * kBlockBytes}) {
      dist::simulate(world, [&](dist::Communicator comm) {
        LayeredState state(comm.rank(), world);
        AsyncSaver saver({.rank = comm.rank(),
                          .world = world,
                          .tag = agreed_tag(comm),
                          .staging_bytes = staging});
        saver.begin(collect(state.visitor()),
                    request_in(folder.path() / std::to_string(staging), 7));
        while (saver.under_way()) {
          state.update(&saver);
          exchange(saver, comm);
        }
        const auto result = saver.take_result();
        ASSERT_TRUE(result);
        EXPECT_TRUE(result->sealed) << text_of(result->why_not);
        EXPECT_FALSE(saver.take_result());
        EXPECT_GT(result->copied_bytes, 0u);
      });
      const fs::path path = folder.path() / std::to_string(staging) / "step-00000007";
      EXPECT_TRUE(verify(path).empty());
      LayeredState expected, loaded;
      loaded.update(nullptr);
      load(path, loaded.visitor());
      expect_equal_states(expected, loaded);
      EXPECT_EQ(names_in(path.parent_path()),
                (std::vector<std::string>{"latest", "step-00000007"}));
      // The same bytes as without any hurry.
      EXPECT_EQ(files_in(path), files_in(folder.path() / "0" / "step-00000007"));
    }
    dist::simulate(world, [&](dist::Communicator comm) {
      LayeredState state(comm.rank(), world);
      save(comm, collect(state.visitor()), request_in(folder.path() / "waited", 7));
    });
    EXPECT_EQ(files_in(folder.path() / "waited" / "step-00000007"),
              files_in(folder.path() / "0" / "step-00000007"));
  }
}

TEST(AsyncSaver, AFileHoldsFirstWhatChangesFirst) {
  LayeredState state;
  ShardPlanner planner;
  const StateTree tree = collect(state.visitor());
  const ShardPlan plan = planner.plan(tree, {});
  Stage last = 0;
  std::uint64_t at = 0;
  for (const Segment& segment : plan.segments) {
    EXPECT_EQ(segment.offset, at);
    at += segment.bytes;
    if (segment.source == Segment::Source::hdf5) continue;
    const Stage stage = tree.tensors[segment.index].stage;
    EXPECT_GE(stage, last);
    last = stage;
    EXPECT_GE(plan.end_of(stage), at);
  }
  EXPECT_EQ(at, plan.file_bytes());
  EXPECT_EQ(last, LayeredState::kLayers - 1);
  for (Stage stage = 1; stage <= last; ++stage)
    EXPECT_GT(plan.end_of(stage), plan.end_of(stage - 1));
  EXPECT_EQ(plan.end_of(kUnstaged), 0u);
}

TEST(AsyncSaver, AnUpdateWaitsForItsOwnBucketsOnly) {
  const ScratchFolder folder;
  const Gate gate;
  Gate::close(SaveStep::half_staged);
  LayeredState state;
  AsyncSaver saver({});
  saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
  Gate::wait_for(SaveStep::half_staged);
  // The copy stands still in the middle of 36 MB: the first two stages, of 6 MB each, are copied.
  saver.before_change(0);
  saver.before_change(1);
  EXPECT_EQ(saver.waits(), 0);
  std::atomic<bool> passed = false;
  std::thread opener([&] {
    std::this_thread::sleep_for(50ms);
    EXPECT_FALSE(passed) << "the last stage was let through before it was copied";
    Gate::open();
  });
  saver.before_change(LayeredState::kLayers - 1);
  passed = true;
  opener.join();
  EXPECT_EQ(saver.waits(), 1);
  EXPECT_GE(saver.waited_s(), 0.04);
  saver.before_any_change();  // all is copied by now
  EXPECT_EQ(saver.waits(), 1);
  settle(saver, *dist::make_collectives(dist::Communicator::self()));
  EXPECT_TRUE(saver.take_result()->sealed);
}

TEST(AsyncSaver, ASlowDiskHoldsUpOnlyWhomTheStagingIsTooSmallFor) {
  for (const bool is_small : {false, true}) {
    const ScratchFolder folder;
    const Gate gate;
    Gate::forget();
    Gate::close(SaveStep::half_written);
    LayeredState state;
    AsyncSaver saver({.staging_bytes = is_small ? 2 * kBlockBytes : 0});
    saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
    Gate::wait_for(SaveStep::half_written);
    const int waits_before = static_cast<int>(saver.waits());
    std::thread opener([&] {
      std::this_thread::sleep_for(30ms);
      Gate::open();
    });
    saver.before_any_change();
    EXPECT_EQ(saver.waits() - waits_before, is_small ? 1 : 0);
    opener.join();
    settle(saver, *dist::make_collectives(dist::Communicator::self()));
    EXPECT_TRUE(saver.take_result()->sealed);
  }
}

TEST(AsyncSaver, WhatNobodyTiesToAStageIsCopiedAtOnce) {
  const ScratchFolder folder;
  const Gate gate;
  Gate::close(SaveStep::staged);
  at::Tensor first = at::zeros({5}), later = at::zeros({3'000'000});
  std::string note = "before";
  AsyncSaver saver({});
  const auto visit = [&](Scope& root) {
    root.at_stage(3).tensor("later", later);
    root.tensor("first", first);
    root.text("note", note);
  };
  saver.begin(collect(visit), request_in(folder.path(), 1));
  first.fill_(1);
  note = "after";
  Gate::open();
  settle(saver, *dist::make_collectives(dist::Communicator::self()));
  load(folder.path() / "step-00000001", visit);
  EXPECT_TRUE(at::equal(first, at::zeros({5})));
  EXPECT_EQ(note, "before");
}

/// Resident memory of this process at most since reset_peak().
std::int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return -1;
}
bool reset_peak() {
  std::ofstream refs("/proc/self/clear_refs");
  refs << "5" << std::flush;
  return refs.good();
}

TEST(AsyncSaver, NoMoreMemoryIsTakenThanTheStagingHas) {
  const ScratchFolder folder;
  std::vector<at::Tensor> tensors;
  for (int i = 0; i < 12; ++i) tensors.push_back(at::ones({2'000'000}));  // 96 MB
  const auto visit = [&](Scope& root) {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      root.at_stage(Stage(i)).tensor(fmt::format("t{}", i), tensors[i]);
  };
  const std::uint64_t staging = 2 * kBlockBytes;
  const auto collectives = dist::make_collectives(dist::Communicator::self());
  AsyncSaver warm({}), saver({.staging_bytes = staging});
  at::Tensor little = at::ones({5});  // HDF5 and the thread take their memory here
  warm.begin(collect([&](Scope& root) { root.tensor("t", little); }), request_in(folder.path(), 1));
  settle(warm, *collectives);
  if (!reset_peak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written here";
  const std::int64_t before = peak_bytes();
  for (int step = 2; step < 5; ++step) {
    saver.begin(collect(visit), request_in(folder.path(), step));
    settle(saver, *collectives);
    EXPECT_TRUE(saver.take_result()->sealed);
  }
  EXPECT_LE(peak_bytes() - before, static_cast<std::int64_t>(staging) + (3 << 20));
}

TEST(AsyncSaver, PreparedMemoryIsThereBeforeTheFirstSave) {
  const ScratchFolder folder;
  at::Tensor big = at::ones({16'000'000});  // 64 MB
  const auto visit = [&](Scope& root) { root.at_stage(0).tensor("t", big); };
  const auto collectives = dist::make_collectives(dist::Communicator::self());
  if (!reset_peak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written here";
  for (const bool is_prepared : {false, true}) {
    AsyncSaver saver({});
    const SaveRequest request = request_in(folder.path() / std::to_string(is_prepared), 1);
    if (is_prepared) saver.prepare(collect(visit), request);
    ASSERT_TRUE(saver.wait_until_idle(60));
    reset_peak();
    const std::int64_t before = peak_bytes();
    saver.begin(collect(visit), request);
    settle(saver, *collectives);
    ASSERT_TRUE(saver.take_result()->sealed);
    if (is_prepared)
      EXPECT_LE(peak_bytes() - before, 16 << 20);
    else
      EXPECT_GE(peak_bytes() - before, 60 << 20);
  }
}

TEST(AsyncSaver, EveryStepIsReached) {
  const ScratchFolder folder;
  const Gate gate;
  Gate::forget();
  LayeredState first(0, 2);
  dist::simulate(2, [&](dist::Communicator comm) {
    LayeredState state(comm.rank(), 2);
    save(comm, collect(state.visitor()), request_in(folder.path(), 1));
  });
  const std::set of_rank_0{
      SaveStep::parts_read,    SaveStep::manifest_written, SaveStep::parts_removed,
      SaveStep::folder_synced, SaveStep::renaming,         SaveStep::renamed,
      SaveStep::rename_synced, SaveStep::latest_written,   SaveStep::pruned};
  for (const auto& [step, name] : kSaveSteps) {
    const int times = step == SaveStep::discarded ? 0 : of_rank_0.contains(step) ? 1 : 2;
    EXPECT_EQ(Gate::times(step), times) << name;
  }
}

TEST(AsyncSaver, AShardThatIsNotWrittenInTimeIsAFailedSaveOnEveryRank) {
  const ScratchFolder folder;
  const Gate gate;
  std::atomic<int> say_why = 0;  // who began later may hear of it before its own time is over
  dist::simulate(3, [&](dist::Communicator comm) {
    LayeredState state(comm.rank(), 3);
    AsyncSaver saver({.rank = comm.rank(), .world = 3, .tag = agreed_tag(comm), .timeout_s = 0.3});
    save(comm, collect(state.visitor()), request_in(folder.path(), 1));
    comm.barrier();
    if (comm.is_root()) Gate::close(SaveStep::shard_written);  // all three stick there
    comm.barrier();
    saver.begin(collect(state.visitor()), request_in(folder.path(), 2));
    while (saver.under_way()) {
      std::this_thread::sleep_for(10ms);
      state.update(&saver);  // and the training is not held up
      exchange(saver, comm);
    }
    const auto result = saver.take_result();
    EXPECT_FALSE(result->sealed);
    if (result->why_not) {
      ++say_why;
      EXPECT_NE(text_of(result->why_not).find("not written within 0.3 s (checkpoint.timeout_s)"),
                std::string::npos)
          << text_of(result->why_not);
    }
    comm.barrier();
    Gate::open();
    EXPECT_TRUE(saver.wait_until_idle(10));
    // It can save again.
    saver.begin(collect(state.visitor()), request_in(folder.path(), 3));
    while (saver.under_way()) exchange(saver, comm);
    EXPECT_TRUE(saver.take_result()->sealed);
  });
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"latest", "step-00000001", "step-00000003"}));
  EXPECT_GE(say_why, 1);
}

TEST(AsyncSaver, AnUpdateDoesNotWaitForAStuckDiskBeyondTheTimeOut) {
  const ScratchFolder folder;
  const Gate gate;
  Gate::forget();
  Gate::close(SaveStep::half_written);
  LayeredState state;
  AsyncSaver saver({.staging_bytes = kBlockBytes, .timeout_s = 0.2});
  saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
  Gate::wait_for(SaveStep::half_written);
  state.update(&saver);
  EXPECT_EQ(saver.flags().failed, 1);
  saver.learn(saver.flags());
  EXPECT_FALSE(saver.take_result()->sealed);
  Gate::open();
  EXPECT_TRUE(saver.wait_until_idle(10));
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(AsyncSaver, ASealThatIsNotDoneInTimeIsAFailedSaveAndPublishesNothing) {
  const ScratchFolder folder;
  const Gate gate;
  dist::simulate(2, [&](dist::Communicator comm) {
    LayeredState state(comm.rank(), 2);
    AsyncSaver saver({.rank = comm.rank(), .world = 2, .tag = agreed_tag(comm), .timeout_s = 2});
    if (comm.is_root()) Gate::close(SaveStep::folder_synced);
    comm.barrier();
    saver.begin(collect(state.visitor()), request_in(folder.path(), 2));
    while (saver.under_way()) exchange(saver, comm);
    const auto result = saver.take_result();
    EXPECT_FALSE(result->sealed);
    if (comm.is_root()) {
      EXPECT_NE(text_of(result->why_not).find("not sealed within 2 s"), std::string::npos)
          << text_of(result->why_not);
    }
    comm.barrier();
    Gate::open();
    EXPECT_TRUE(saver.wait_until_idle(10));
  });
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(AsyncSaver, ARankThatSaysNothingDoesNotHoldTheOthersForEver) {
  const ScratchFolder folder;
  std::atomic<int> left = 0;
  EXPECT_THROW(dist::simulate(2,
                              [&](dist::Communicator comm) {
                                const auto collectives = dist::make_collectives(comm);
                                LayeredState state(comm.rank(), 2);
                                AsyncSaver saver({.rank = comm.rank(),
                                                  .world = 2,
                                                  .tag = agreed_tag(comm),
                                                  .timeout_s = 0.2,
                                                  .grace_s = 0.1});
                                saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
                                if (comm.rank() == 1) {
                                  while (left == 0) std::this_thread::sleep_for(5ms);
                                  return;
                                }
                                try {
                                  settle(saver, *collectives);
                                } catch (const Error& error) {
                                  EXPECT_EQ(error.code(), ExitCode::peer) << error.what();
                                  EXPECT_NE(std::string(error.what()).find("step 1 is not saved"),
                                            std::string::npos);
                                  ++left;
                                  throw;
                                }
                              }),
               Error);
  EXPECT_EQ(left, 1);
}

TEST(AsyncSaver, WhoMayNotPublishAnyMoreDoesNot) {
  const ScratchFolder folder;
  TestState state(1);
  save_as(1, state, folder.path(), 1);
  SaveRequest request = request_in(folder.path(), 2);
  request.before_publish = [] { fail(ExitCode::checkpoint, "Another run holds the directory."); };
  try {
    save(dist::Communicator::self(), collect(state.visitor()), request);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), std::string("Another run holds the directory."));
  }
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-00000001"}));
}

TEST(AsyncSaver, WhatFollowsACheckpointHappensOnceItIsThereAndCostsItNothing) {
  const ScratchFolder folder;
  TestState state(1);
  SaveRequest request = request_in(folder.path(), 2);
  bool was_there = false;
  request.after_publish = [&] {
    was_there = newest(folder.path()) == folder.path() / "step-00000002";
    throw std::runtime_error("Nothing could be deleted.");
  };
  save(dist::Communicator::self(), collect(state.visitor()), request);
  EXPECT_TRUE(was_there);
  EXPECT_EQ(newest(folder.path()), folder.path() / "step-00000002");
}

TEST(AsyncSaver, WhatARankHasReportedStaysForRank0ToUse) {
  const ScratchFolder folder;
  LayeredState state(1, 2);
  {
    AsyncSaver saver({.rank = 1, .world = 2});
    saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
    saver.wait_for_news();
    EXPECT_EQ(saver.flags().written, 1);
  }
  const fs::path temporary = folder.path() / names_in(folder.path()).at(0);
  EXPECT_EQ(names_in(temporary),
            (std::vector<std::string>{".part-00001.json", "shard-00001-of-00002.h5"}));
}

TEST(AsyncSaver, ARunThatEndsInTheMiddleLeavesNothingHalf) {
  const ScratchFolder folder;
  const Gate gate;
  Gate::forget();
  LayeredState state;
  {
    AsyncSaver saver({});
    saver.begin(collect(state.visitor()), request_in(folder.path(), 1));
  }
  EXPECT_TRUE(names_in(folder.path()).empty());
  EXPECT_EQ(Gate::times(SaveStep::discarded), 1);
}

}  // namespace
}  // namespace trestle::checkpoint
