// A state that is divided over ranks as training divides it, saved by N ranks and loaded by M:
// every element exact, and no rank reads more than it needs.
#include "base/log.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"
#include "tests/support/scratch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

constexpr int kWorlds[] = {1, 2, 3, 4, 8};

/// What a rank of `world` holds: of each tensor a range, cut where a flat buffer of all of them is
/// cut, so that some ranks hold nothing of a tensor; one tensor that every rank holds; a number.
struct DividedState {
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    at::ScalarType dtype;
    std::uint64_t begin = 0;
    at::Tensor local = {};
  };
  std::vector<Tensor> tensors;
  at::Tensor common;
  std::int64_t step = 0;

  static at::Tensor whole_of(const Tensor& tensor, std::uint64_t seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed + tensor.name.size());
    return at::randn(tensor.shape, generator, at::kFloat).mul_(50).to(tensor.dtype);
  }

  DividedState(int rank, int world, std::uint64_t seed) {
    const std::pair<std::vector<std::int64_t>, at::ScalarType> kinds[] = {
        {{700, 1500}, at::kFloat},   {{33}, at::kFloat},       {{1200, 700}, at::kDouble},
        {{5, 7, 11}, at::kBFloat16}, {{1}, at::kFloat},        {{3000, 701}, at::kBFloat16},
        {{257}, at::kLong},          {{900, 1111}, at::kFloat}};
    std::int64_t total = 0;
    for (const auto& [shape, dtype] : kinds) total += c10::multiply_integers(shape);
    std::int64_t start = 0;
    for (const auto& [shape, dtype] : kinds) {
      Tensor tensor{.name = std::string(1 + tensors.size(), 't'), .shape = shape, .dtype = dtype};
      const std::int64_t count = c10::multiply_integers(shape);
      const std::int64_t begin = std::clamp<std::int64_t>(total * rank / world - start, 0, count);
      const std::int64_t end =
          std::clamp<std::int64_t>(total * (rank + 1) / world - start, 0, count);
      tensor.begin = static_cast<std::uint64_t>(begin);
      const at::Tensor whole = seed == 0 ? at::zeros(shape, dtype) : whole_of(tensor, seed);
      tensor.local = whole.flatten().slice(0, begin, end).clone();
      tensors.push_back(std::move(tensor));
      start += count;
    }
    common = seed == 0 ? at::zeros({100, 3}) : whole_of({"common", {100, 3}, at::kFloat}, seed);
    step = static_cast<std::int64_t>(seed);
  }

  Visitor visitor() {
    return [this](Scope& scope) {
      for (Tensor& tensor : tensors)
        scope.piece("model/" + tensor.name, tensor.local, tensor.shape, tensor.begin);
      scope.tensor("task/common", common);
      scope.number("trainer/step", step);
    };
  }

  std::uint64_t bytes() const {
    std::uint64_t sum = common.nbytes();
    for (const Tensor& tensor : tensors) sum += tensor.local.nbytes();
    return sum;
  }
};

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0);
}

/// The bytes of all blocks that hold elements of the state.
std::uint64_t bytes_of_its_blocks(const DividedState& state, const Manifest& manifest) {
  std::set<std::pair<std::size_t, std::uint64_t>> blocks;
  const auto add = [&](const std::string& name, std::uint64_t begin, std::uint64_t end) {
    const TensorRecord& tensor = manifest.tensors.at(name);
    const std::uint64_t element_bytes = formats::element_bytes(tensor.dtype);
    for (const PieceRecord& piece : tensor.pieces) {
      const std::uint64_t from = std::max(begin, piece.begin), to = std::min(end, piece.end);
      if (from >= to) continue;
      const std::uint64_t first = piece.offset + (from - piece.begin) * element_bytes;
      const std::uint64_t last = piece.offset + (to - piece.begin) * element_bytes - 1;
      for (std::uint64_t block = first / kBlockBytes; block <= last / kBlockBytes; ++block)
        blocks.insert({piece.file, block});
    }
  };
  for (const DividedState::Tensor& tensor : state.tensors)
    add("model/" + tensor.name, tensor.begin,
        tensor.begin + static_cast<std::uint64_t>(tensor.local.numel()));
  add("task/common", 0, 300);
  std::uint64_t bytes = 0;
  for (const auto& [file, block] : blocks)
    bytes += manifest.files[file].block_end(block) - manifest.files[file].block_begin(block);
  return bytes;
}

TEST(AnyWorld, LoadsWhatAnyOtherSavedAndReadsNoMoreThanItsShare) {
  const ScratchFolder folder;
  int pairs = 0;
  for (const int writers : kWorlds) {
    fs::path path;
    dist::simulate(writers, [&](dist::Communicator comm) {
      DividedState state(comm.rank(), comm.size(), 77);
      const fs::path made = save(comm, collect(state.visitor()),
                                 {.folder = folder.path(),
                                  .step = writers,
                                  .recipe_toml = {},
                                  .recipe_hash = "0123456789abcdef"});
      if (comm.is_root()) path = made;
    });
    const Manifest manifest = read_manifest(path);
    for (const int readers : kWorlds) {
      dist::simulate(readers, [&](dist::Communicator comm) {
        DividedState loaded(comm.rank(), comm.size(), 0);
        const DividedState expected(comm.rank(), comm.size(), 77);
        const LoadReport report = comm.agreed(
            [&] { return load(path, loaded.visitor(), {.threads = 1 + comm.rank() % 4}); });
        const std::string where =
            fmt::format("{} writers, rank {} of {}", writers, comm.rank(), readers);
        for (std::size_t i = 0; i < expected.tensors.size(); ++i)
          EXPECT_TRUE(same_bits(loaded.tensors[i].local, expected.tensors[i].local))
              << where << ", " << expected.tensors[i].name;
        EXPECT_TRUE(same_bits(loaded.common, expected.common)) << where;
        EXPECT_EQ(loaded.step, 77) << where;
        EXPECT_EQ(report.bytes_wanted, loaded.bytes()) << where;
        // Digests are of whole blocks: each that holds a part of it, once, and no other.
        EXPECT_EQ(report.bytes_read, bytes_of_its_blocks(loaded, manifest)) << where;
        EXPECT_LE(report.bytes_read, report.bytes_wanted + 2 * kBlockBytes * report.pieces)
            << where;
      });
      ++pairs;
    }
  }
  EXPECT_EQ(pairs, 25);
}

TEST(AnyWorld, ASmallShareIsReadWithoutTheRest) {
  // Rank 7 of 8 reads a few blocks of what one rank wrote.
  const ScratchFolder folder;
  DividedState whole(0, 1, 5);
  const fs::path path = save(
      dist::Communicator::self(), collect(whole.visitor()),
      {.folder = folder.path(), .step = 5, .recipe_toml = {}, .recipe_hash = "0123456789abcdef"});
  DividedState part(7, 8, 0);
  const LoadReport report = load(path, part.visitor());
  EXPECT_LT(report.bytes_wanted, 4'000'000u);
  EXPECT_LE(report.bytes_read, 4 * kBlockBytes);
  EXPECT_GE(report.bytes_read, report.bytes_wanted);
}

}  // namespace
}  // namespace trestle::checkpoint
