// Pieces of files, read by several threads: every byte in its place, each block read once, and
// which error wins.
#include "base/digest.h"
#include "base/files.h"
#include "checkpoint/shard_reader.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <tuple>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

using Bytes = std::vector<std::byte>;

/// A few files of random bytes, and their manifest.
class ReadPieces : public ::testing::Test {
 protected:
  ReadPieces() {
    for (const std::uint64_t bytes : {9'000'000u, 100u, 4'194'304u, 13'000'001u}) {
      Bytes content(bytes);
      for (std::byte& byte : content) byte = static_cast<std::byte>(random_());
      FileRecord record{
          .name = fmt::format("shard-{}.h5", files_.size()), .bytes = bytes, .block_digests = {}};
      for (std::size_t block = 0; record.block_begin(block) < bytes; ++block) {
        record.block_digests.push_back(digest_64(std::span(content).subspan(
            record.block_begin(block), record.block_end(block) - record.block_begin(block))));
      }
      write_file_durable(folder_.path() / record.name,
                         {reinterpret_cast<const char*>(content.data()), content.size()},
                         ExitCode::environment);
      manifest_.files.push_back(record);
      files_.push_back(std::move(content));
    }
  }

  std::uint64_t block_bytes_of(std::span<const PieceRead> pieces) const {
    std::set<std::pair<std::size_t, std::uint64_t>> blocks;
    for (const PieceRead& piece : pieces) {
      for (std::uint64_t at = piece.offset; at < piece.offset + piece.bytes;
           at = (at / kBlockBytes + 1) * kBlockBytes)
        blocks.insert({piece.file, at / kBlockBytes});
    }
    std::uint64_t bytes = 0;
    for (const auto& [file, block] : blocks)
      bytes += manifest_.files[file].block_end(block) - manifest_.files[file].block_begin(block);
    return bytes;
  }

  void damage(std::size_t file, std::uint64_t at) {
    Bytes content = files_[file];
    content[at] ^= std::byte{4};
    write_file_durable(folder_.path() / manifest_.files[file].name,
                       {reinterpret_cast<const char*>(content.data()), content.size()},
                       ExitCode::environment);
  }

  ScratchFolder folder_;
  std::mt19937_64 random_{17};
  Manifest manifest_;
  std::vector<Bytes> files_;
};

TEST_F(ReadPieces, PutsEveryByteInItsPlaceAndReadsEachBlockOnce) {
  for (int round = 0; round < 60; ++round) {
    // Some rounds have pieces that share bytes, some have sinks, some only a few bytes.
    const bool overlapping = round % 3 == 0;
    std::vector<PieceRead> pieces;
    std::vector<Bytes> memory;
    for (std::size_t file = 0; file < files_.size(); ++file) {
      std::uint64_t at = random_() % 1000;
      while (at < files_[file].size()) {
        const std::uint64_t most = random_() % 3 == 0 ? 6'000'000 : 3000;
        const std::uint64_t bytes = std::min(random_() % most, files_[file].size() - at);
        pieces.push_back({.file = file, .offset = at, .bytes = bytes});
        at += overlapping ? bytes / 2 + 1 : bytes + random_() % 5'000'000 * (random_() % 2);
      }
    }
    std::ranges::shuffle(pieces, random_);
    memory.resize(pieces.size());
    std::mutex mutex;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      memory[i].resize(pieces[i].bytes);
      if (random_() % 3 != 0) {
        pieces[i].into = memory[i].data();
      } else {
        pieces[i].sink = [&, i](std::uint64_t begin, std::span<const std::byte> bytes) {
          const std::lock_guard lock(mutex);
          ASSERT_LE(begin + bytes.size(), memory[i].size());
          std::memcpy(memory[i].data() + begin, bytes.data(), bytes.size());
        };
      }
    }
    const ReadCounts counts = read_pieces(folder_.path(), manifest_, pieces, 1 + round % 6);
    std::uint64_t wanted = 0, filled = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      wanted += pieces[i].bytes;
      filled += pieces[i].bytes > 0 ? 1 : 0;
      ASSERT_EQ(std::memcmp(memory[i].data(), files_[pieces[i].file].data() + pieces[i].offset,
                            pieces[i].bytes),
                0)
          << "round " << round << ", piece " << i;
    }
    EXPECT_EQ(counts.wanted_bytes, wanted);
    EXPECT_EQ(counts.pieces, filled);
    EXPECT_EQ(counts.read_bytes, block_bytes_of(pieces)) << "round " << round;
  }
}

TEST_F(ReadPieces, NothingIsReadForNothing) {
  EXPECT_EQ(read_pieces(folder_.path(), manifest_, {}, 4).read_bytes, 0u);
  fs::remove(folder_.path() / "shard-1.h5");
  std::byte byte{};
  const PieceRead pieces[] = {{.file = 1, .offset = 50, .bytes = 0, .into = &byte},
                              {.file = 0, .offset = 50, .bytes = 1, .into = &byte}};
  EXPECT_EQ(read_pieces(folder_.path(), manifest_, pieces, 4).read_bytes, kBlockBytes);
  EXPECT_EQ(byte, files_[0][50]);
}

TEST_F(ReadPieces, DamageIsNamedWithTheTensorThatWasWanted) {
  manifest_.tensors["model/a"] = {{1'000'000},
                                  formats::ElementType::uint8,
                                  {{3, "model/a", 5'000'000, 1'000'000, 0, 1'000'000}}};
  manifest_.tensors["model/b"] = {
      {3'000'000}, formats::ElementType::uint8, {{3, "model/b", 2048, 3'000'000, 0, 3'000'000}}};
  damage(3, 5'500'000);
  Bytes memory(3'000'000);
  const PieceRead b{
      .file = 3, .offset = 2048, .bytes = 3'000'000, .tensor = "model/b", .into = memory.data()};
  read_pieces(folder_.path(), manifest_, std::span(&b, 1), 2);  // lies in other blocks
  const PieceRead a{
      .file = 3, .offset = 5'000'000, .bytes = 10, .tensor = "model/a", .into = memory.data()};
  for (const int threads : {1, 4}) {
    try {
      read_pieces(folder_.path(), manifest_, std::vector{b, a}, threads);
      FAIL() << "nothing was thrown";
    } catch (const DamageError& error) {
      EXPECT_EQ(error.damage().file, "shard-3.h5");
      EXPECT_EQ(error.damage().begin, kBlockBytes);
      EXPECT_EQ(error.damage().end, 2 * kBlockBytes);
      EXPECT_EQ(error.damage().what, "tensor model/a, HDF5 metadata");
    }
  }
}

TEST_F(ReadPieces, AnErrorThatIsNoDamageWins) {
  damage(3, 5);
  Bytes memory(100);
  const PieceRead damaged{.file = 3, .offset = 0, .bytes = 50, .into = memory.data()};
  // Another thread's, which begins before the damage is found and ends after that.
  const PieceRead late{.file = 0, .offset = 0, .bytes = 50, .sink = [](auto, auto) {
                         std::this_thread::sleep_for(std::chrono::milliseconds(200));
                         fail(ExitCode::checkpoint, "no rights");
                       }};
  EXPECT_THROW(read_pieces(folder_.path(), manifest_, std::vector{damaged}, 2), DamageError);
  try {
    read_pieces(folder_.path(), manifest_, std::vector{damaged, late}, 2);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no rights");
  }
}

TEST_F(ReadPieces, AReaderOfOneTensorKeepsTheLastBlock) {
  ShardReader reader(folder_.path(), manifest_);
  Bytes memory(10'000'000);
  for (const auto& [file, offset, bytes] :
       std::vector<std::tuple<std::size_t, std::uint64_t, std::uint64_t>>{
           {3, 0, 10}, {3, 10, 9'000'000}, {3, 9'000'010, 5}, {1, 0, 100}, {0, 8'999'999, 1}}) {
    reader.read(file, offset, std::span(memory).first(bytes), "model/x");
    EXPECT_EQ(std::memcmp(memory.data(), files_[file].data() + offset, bytes), 0);
  }
}

}  // namespace
}  // namespace trestle::checkpoint
