// Saving and loading on any number of ranks (simulated: threads of this process).
#include "base/files.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/verify.h"
#include "dist/simulated.h"
#include "formats/hdf5.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <limits>
#include <sys/syscall.h>
#include <unistd.h>

// Stand in front of the C library, so that a test can make them fail.
namespace {
std::atomic<bool> exchange_works = true;
std::atomic<int> syncs_that_work = 1 << 30;
}  // namespace

extern "C" int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                         unsigned flags) noexcept {
  if (!exchange_works) {
    errno = EINVAL;
    return -1;
  }
  return static_cast<int>(syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
}

extern "C" int fsync(int descriptor) {
  if (--syncs_that_work < 0) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;
using trestle::testing::SmallDisk;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Checkpoint, AnyWorldLoadsWhatAnyWorldSaved) {
  const ScratchFolder folder;
  TestState state(7);
  for (const int writers : {1, 2, 3, 4}) {
    const fs::path path = save_as(writers, state, folder.path(), writers);
    EXPECT_EQ(path.filename(), fmt::format("step-{:08}", writers));
    dist::simulate(3, [&](dist::Communicator comm) {
      TestState loaded(0);
      const LoadReport report = comm.agreed([&] { return load(path, loaded.visitor()); });
      EXPECT_TRUE(same_state(state, loaded)) << writers << " writers, rank " << comm.rank();
      EXPECT_EQ(report.step, writers);
    });
    EXPECT_TRUE(verify(path).empty());
  }
  const std::string latest = read_text_file(folder.path() / "latest", 100, ExitCode::checkpoint);
  EXPECT_EQ(latest, "step-00000004\n");
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"latest", "step-00000001", "step-00000002", "step-00000003",
                                      "step-00000004"}));
}

/// The state of one of two branches, below a name of its own.
Visitor in_branch(TestState& state, int branch) {
  return [&state, branch](Scope& root) {
    Scope all = root.child("branches");
    all.elsewhere(std::to_string(1 - branch));
    Scope mine = all.child(std::to_string(branch));
    state.visitor()(mine);
    std::int64_t common = 5;
    root.number("common", common);
  };
}

TEST(Checkpoint, RanksThatHoldDifferentTensorsSaveEachOnceAndLoadTheirOwn) {
  const ScratchFolder folder;
  TestState states[] = {TestState(7), TestState(8)};
  const auto branch_of = [](const dist::Communicator& world) {
    return 2 * world.rank() / world.size();
  };
  for (const int writers : {2, 4, 6}) {
    fs::path path;
    dist::simulate(writers, [&](dist::Communicator world) {
      const int branch = branch_of(world);
      const dist::Communicator holders = world.split(branch, world.rank());
      const fs::path made = save(world, collect(in_branch(states[branch], branch)),
                                 {.folder = folder.path(),
                                  .step = writers,
                                  .recipe_toml = {},
                                  .recipe_hash = "0123456789abcdef",
                                  .holders = &holders});
      if (world.is_root()) path = made;
    });
    EXPECT_TRUE(verify(path).empty());
    dist::simulate(4, [&](dist::Communicator world) {
      const int branch = branch_of(world);
      TestState loaded(0);
      world.agreed([&] { load(path, in_branch(loaded, branch)); });
      EXPECT_TRUE(same_state(states[branch], loaded)) << writers << " writers, " << world.rank();
    });
  }
  // What nobody said to be elsewhere is not expected.
  TestState loaded(0);
  const std::string message = message_of([&] {
    load(folder.path() / "step-00000002", [&](Scope& root) {
      Scope mine = root.child("branches/0");
      loaded.visitor()(mine);
    });
  });
  EXPECT_NE(message.find("tensor branches/1/model/half is not expected"), std::string::npos)
      << message;
  EXPECT_NE(message.find("value branches/1/trainer/step is not expected"), std::string::npos);
}

TEST(Checkpoint, EveryRankWritesItsShareOfTheBytes) {
  const ScratchFolder folder;
  TestState state(3);
  for (const int world : {1, 2, 3, 4}) {
    const Manifest manifest = read_manifest(save_as(world, state, folder.path(), world));
    ASSERT_EQ(manifest.files.size(), static_cast<std::size_t>(world));
    std::vector<double> bytes(manifest.files.size(), 0);
    for (const auto& [name, tensor] : manifest.tensors)
      for (const PieceRecord& piece : tensor.pieces)
        bytes[piece.file] += static_cast<double>(piece.bytes);
    double mean = 0;
    for (const double of_rank : bytes) mean += of_rank / world;
    for (int rank = 0; rank < world; ++rank) {
      const auto index = static_cast<std::size_t>(rank);
      EXPECT_NEAR(bytes[index], mean, 0.02 * mean) << "rank " << rank << " of " << world;
      EXPECT_EQ(manifest.files[index].name, fmt::format("shard-{:05}-of-{:05}.h5", rank, world));
    }
  }
}

TEST(Checkpoint, SavingTheLoadedStateGivesTheSameBytes) {
  const ScratchFolder folder, again;
  TestState state(5), loaded(0);
  const fs::path first = save_as(2, state, folder.path(), 9);
  load(first, loaded.visitor());
  const fs::path second = save_as(2, loaded, again.path(), 9);
  ASSERT_EQ(names_in(first), names_in(second));
  for (const std::string& name : names_in(first))
    EXPECT_TRUE(read_text_file(first / name, 1 << 26, ExitCode::checkpoint) ==
                read_text_file(second / name, 1 << 26, ExitCode::checkpoint))
        << name;
}

TEST(Checkpoint, TheManifestSaysWhatWasSaved) {
  const ScratchFolder folder;
  TestState state(2);
  const Manifest manifest = read_manifest(save_as(2, state, folder.path(), 123));
  EXPECT_EQ(manifest.step, 123);
  EXPECT_EQ(manifest.world, 2);
  EXPECT_EQ(manifest.recipe_hash, "0123456789abcdef");
  EXPECT_EQ(manifest.recipe_toml, "[run]\ntask = \"test\"\n");
  EXPECT_EQ(manifest.versions.at("hdf5"), formats::hdf5_version());
  EXPECT_EQ(manifest.versions.count("torch") + manifest.versions.count("trestle"), 2u);
  EXPECT_EQ(std::get<std::int64_t>(manifest.values.at("trainer/step")), state.step);
  const TensorRecord& whole = manifest.tensors.at("model/half");
  EXPECT_EQ(whole.shape, (std::vector<std::int64_t>{7, 5}));
  EXPECT_EQ(whole.dtype, formats::ElementType::float16);
  ASSERT_EQ(whole.pieces.size(), 1u);
  EXPECT_EQ(whole.pieces[0].dataset, "model/half");
  const TensorRecord& split = manifest.tensors.at("model/blocks.0.large");
  ASSERT_EQ(split.pieces.size(), 2u);
  EXPECT_EQ(split.pieces[1].dataset,
            fmt::format("model/blocks.0.large[{}:{}]", split.pieces[1].begin, 1100 * 1024));
}

TEST(Checkpoint, SpecialNumbersSurvive) {
  const ScratchFolder folder;
  TestState state(4);
  state.weight[0][0] = std::nan("");
  state.weight[0][1] = -0.0;
  for (const double loss :
       {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(), -0.0,
        0.1, 1e-310, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
    state.loss = loss;
    state.step = std::numeric_limits<std::int64_t>::min();
    TestState loaded(0);
    load(save_as(1, state, folder.path(), 1), loaded.visitor());
    EXPECT_TRUE(same_state(state, loaded)) << loss;
  }
}

TEST(Checkpoint, PiecesOfRanksBecomeOneTensor) {
  // As a sharded optimizer saves: three ranks hold 10 + 0 + 13 elements, four others load.
  const ScratchFolder folder;
  const at::Tensor whole = at::arange(23, at::kFloat);
  const auto visit_piece = [](at::Tensor& local, std::uint64_t begin) {
    return [&local, begin](Scope& scope) { scope.piece("optim/m", local, {23}, begin); };
  };
  fs::path path;
  dist::simulate(3, [&](dist::Communicator comm) {
    const std::int64_t bounds[] = {0, 10, 10, 23};
    const std::int64_t begin = bounds[comm.rank()], end = bounds[comm.rank() + 1];
    at::Tensor local = whole.slice(0, begin, end).clone();
    SaveRequest request;
    request.folder = folder.path();
    const auto made =
        save(comm, collect(visit_piece(local, static_cast<std::uint64_t>(begin))), request);
    if (comm.is_root()) path = made;
  });
  EXPECT_EQ(read_manifest(path).tensors.at("optim/m").pieces.size(), 2u);
  for (std::int64_t begin = 0; begin < 23; begin += 6) {
    at::Tensor local = at::zeros({std::min<std::int64_t>(6, 23 - begin)});
    load(path, visit_piece(local, static_cast<std::uint64_t>(begin)));
    EXPECT_TRUE(at::equal(local, whole.slice(0, begin, begin + local.numel()))) << begin;
  }
  at::Tensor all = at::zeros({23});
  load(path, [&](Scope& scope) { scope.tensor("optim/m", all); });
  EXPECT_TRUE(at::equal(all, whole));
}

TEST(Checkpoint, PiecesThatDoNotCoverTheTensorAreNotSaved) {
  const ScratchFolder folder;
  at::Tensor local = at::zeros({10});
  const StateTree tree = collect([&](Scope& scope) { scope.piece("optim/m", local, {23}, 3); });
  SaveRequest request;
  request.folder = folder.path();
  const std::string message = message_of([&] { save(dist::Communicator::self(), tree, request); });
  EXPECT_NE(message.find("tensor optim/m"), std::string::npos) << message;
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(Checkpoint, ARankReadsOnlyWhatItNeeds) {
  const ScratchFolder folder;
  TestState state(6);
  const fs::path path = save_as(2, state, folder.path(), 1);
  at::Tensor scalar = at::zeros({});
  const LoadReport report =
      load(path, [&](Scope& scope) { scope.tensor("optim/exp_avg/scalar", scalar); },
           {.unnamed = Unnamed::ignore});
  EXPECT_TRUE(same_bits(scalar, state.scalar));
  EXPECT_LE(report.bytes_read, kBlockBytes);

  std::uint64_t all_bytes = 0;
  for (const FileRecord& file : read_manifest(path).files) all_bytes += file.bytes;
  TestState loaded(0);
  EXPECT_LE(load(path, loaded.visitor()).bytes_read, all_bytes);  // no block is read twice
}

TEST(Checkpoint, AllDifferencesAreListedBeforeAnythingChanges) {
  const ScratchFolder folder;
  TestState state(8);
  const fs::path path = save_as(2, state, folder.path(), 1);
  at::Tensor shape = at::zeros({33, 128}), dtype = at::zeros({7, 5}), added = at::zeros({1});
  at::Tensor same = at::zeros({1000}, at::kLong);
  double step = 0;
  std::int64_t missing = 0;
  const std::string message = message_of([&] {
    load(path, [&](Scope& scope) {
      scope.tensor("model/blocks.0.weight", shape);
      scope.tensor("model/half", dtype);
      scope.tensor("model/added", added);
      scope.tensor("data/ids", same);
      scope.number("trainer/step", step);
      scope.number("trainer/epoch", missing);
    });
  });
  for (const char* part :
       {"tensor model/blocks.0.weight is float32 [128, 33] and should be float32 [33, 128]",
        "tensor model/half is float16 [7, 5] and should be float32 [7, 5]",
        "tensor model/added is missing", "tensor model/bfloat16 is not expected",
        "tensor data/mask is not expected",
        "value trainer/step is an integer and should be a float", "value trainer/epoch is missing",
        "value trainer/note is not expected", "(14 differences)"})
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nis not in\n" << message;
  EXPECT_EQ(message.find("data/ids"), std::string::npos);
  EXPECT_TRUE(at::equal(same, at::zeros({1000}, at::kLong)));
}

TEST(Checkpoint, TheSameStepIsReplaced) {
  for (const bool exchange : {true, false}) {
    exchange_works = exchange;
    const ScratchFolder folder;
    TestState first(1), second(2), loaded(0);
    save_as(3, first, folder.path(), 50);
    const fs::path path = save_as(2, second, folder.path(), 50);
    load(path, loaded.visitor());
    EXPECT_TRUE(same_state(second, loaded));
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-00000050"}));
    EXPECT_EQ(names_in(path), (std::vector<std::string>{"manifest.json", "shard-00000-of-00002.h5",
                                                        "shard-00001-of-00002.h5"}));
  }
  exchange_works = true;
}

TEST(Checkpoint, ADiskThatFailsToSyncKeepsTheOldCheckpoint) {
  const ScratchFolder folder;
  TestState state(1), other(2), loaded(0);
  save_as(2, state, folder.path(), 1);
  // Two shards, their parts of the manifest, the manifest and the temporary folder are synced
  // before the rename.
  for (int working = 0; working < 6; ++working) {
    syncs_that_work = working;
    const std::string message = message_of([&] { save_as(2, other, folder.path(), 2); });
    syncs_that_work = 1 << 30;
    EXPECT_NE(message.find("Input/output error"), std::string::npos) << message;
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-00000001"}));
  }
  load(folder.path() / "step-00000001", loaded.visitor());
  EXPECT_TRUE(same_state(state, loaded));
}

TEST(Checkpoint, AFailureOfOneRankIsEveryRanksAndLeavesNothing) {
  const ScratchFolder folder;
  TestState state(1), loaded(0);
  save_as(2, state, folder.path(), 1);
  const StateTree good = collect(state.visitor());
  StateTree bad = good;  // a dtype that checkpoints do not hold
  bad.tensors[0].tensor = at::zeros({128, 33}, at::kComplexFloat);
  std::atomic<int> thrown = 0;
  dist::simulate(3, [&](dist::Communicator comm) {
    SaveRequest request;
    request.folder = folder.path();
    request.step = 2;
    try {
      save(comm, comm.rank() == 1 ? bad : good, request);
    } catch (const dist::AgreedError& error) {
      ++thrown;
      EXPECT_NE(std::string(error.what()).find("ComplexFloat"), std::string::npos);
    }
  });
  EXPECT_EQ(thrown, 3);
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-00000001"}));
  load(folder.path() / "step-00000001", loaded.visitor());
  EXPECT_TRUE(same_state(state, loaded));
}

TEST(Checkpoint, AFullDiskKeepsTheOldCheckpoint) {
  SmallDisk disk(std::size_t{16} << 20);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  TestState state(1), other(2);
  const fs::path first = save_as(2, state, disk.path(), 1);  // 5.7 MB
  const std::uintmax_t free_before = disk.free_bytes();
  // The end of the disk falls into every part of a save.
  for (std::uintmax_t left = 0; left < 6'000'000; left += 200'000) {
    write_file_durable(disk.path() / "filler", std::string(free_before - left, 'x'),
                       ExitCode::environment);
    const std::string message = message_of([&] { save_as(2, other, disk.path(), 2); });
    if (message == "nothing was thrown") {
      EXPECT_GT(left, 5'000'000u);
      fs::remove_all(disk.path() / "step-00000002");
    } else {
      EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
    }
    fs::remove(disk.path() / "filler");
    EXPECT_EQ(names_in(disk.path()), (std::vector<std::string>{"latest", "step-00000001"}));
    EXPECT_EQ(disk.free_bytes(), free_before) << left;
  }
  TestState loaded(0);
  load(first, loaded.visitor());
  EXPECT_TRUE(same_state(state, loaded));
}

TEST(Checkpoint, AFolderThatCannotBeWrittenIsNamed) {
  SmallDisk disk(std::size_t{1} << 20);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  disk.make_read_only();
  TestState state(1);
  const std::string message =
      message_of([&] { save_as(2, state, disk.path() / "checkpoints", 1); });
  EXPECT_NE(message.find((disk.path() / "checkpoints").string()), std::string::npos) << message;
  EXPECT_NE(message.find("Read-only file system"), std::string::npos) << message;
}

TEST(Checkpoint, LeftoversOfKilledSavesAreRemoved) {
  const ScratchFolder folder;
  TestState state(1);
  save_as(1, state, folder.path(), 1);
  fs::create_directories(folder.path() / ".tmp-step-00000002-e1-0a1b2c3d");
  write_file_durable(folder.path() / ".tmp-step-00000002-e1-0a1b2c3d" / "shard-00000-of-00001.h5",
                     "half", ExitCode::checkpoint);
  EXPECT_EQ(newest(folder.path()), folder.path() / "step-00000001");
  remove_leftovers(folder.path());
  remove_leftovers(folder.path() / "missing");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"latest", "step-00000001"}));
}

TEST(Checkpoint, NewestSkipsWhatIsNotComplete) {
  const ScratchFolder folder;
  EXPECT_EQ(newest(folder.path()), std::nullopt);
  EXPECT_EQ(newest(folder.path() / "missing"), std::nullopt);
  TestState state(1);
  for (const std::int64_t step : {99999999, 100000000, 3, 4, 5, 6})
    save_as(1, state, folder.path(), step);
  fs::create_directory(folder.path() / "step-200000000");                         // no manifest
  fs::rename(folder.path() / "step-00000006", folder.path() / "step-300000000");  // another step's
  fs::create_directory(folder.path() / "step-400000000x");
  EXPECT_EQ(newest(folder.path()), folder.path() / "step-100000000");
  fs::resize_file(folder.path() / "step-100000000" / "shard-00000-of-00001.h5", 1000);
  EXPECT_EQ(newest(folder.path()), folder.path() / "step-99999999");
  fs::remove(folder.path() / "step-99999999" / "shard-00000-of-00001.h5");
  EXPECT_EQ(newest(folder.path()), folder.path() / "step-00000005");
  fs::resize_file(folder.path() / "step-00000005" / "manifest.json", 1000);
  dist::simulate(2, [&](dist::Communicator comm) {
    EXPECT_EQ(newest(comm, folder.path()), folder.path() / "step-00000004");
  });
}

TEST(StateTree, NamesThatCannotBeStoredAreBugs) {
  at::Tensor a = at::zeros({2});
  std::int64_t n = 0;
  for (const char* name : {"", "/a", "a/", "a//b", "a/./b", "a b", "a\n"})
    EXPECT_THROW(collect([&](Scope& scope) { scope.tensor(name, a); }), std::logic_error) << name;
  EXPECT_THROW(collect([&](Scope& scope) {
                 scope.tensor("a", a);
                 scope.child("b").tensor("a", a);
                 scope.tensor("a", a);
               }),
               std::logic_error);
  EXPECT_THROW(collect([&](Scope& scope) {
                 scope.number("a", n);
                 scope.child("a").number("b", n);
                 scope.number("a/b", n);
               }),
               std::logic_error);
  EXPECT_THROW(collect([&](Scope& scope) { scope.piece("a", a, {3}, 2); }), std::logic_error);
  at::Tensor undefined;
  EXPECT_THROW(collect([&](Scope& scope) { scope.tensor("a", undefined); }), std::logic_error);
}

}  // namespace
}  // namespace trestle::checkpoint
