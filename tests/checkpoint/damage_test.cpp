// Whatever happens to the files of a checkpoint is found and named, by verify() and by load().
#include "base/files.h"
#include "checkpoint/find.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/verify.h"
#include "tests/checkpoint/states.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sys/stat.h>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;
using trestle::testing::ScratchFolder;

constexpr const char* kShards[] = {"shard-00000-of-00002.h5", "shard-00001-of-00002.h5"};

/// A checkpoint of two ranks that every test gets afresh.
class Damaged : public ::testing::Test {
 protected:
  Damaged() : path_(save_as(2, state_, folder_.path(), 10)) {}

  void flip(const std::string& file, std::uint64_t offset, unsigned char bits = 1) {
    std::fstream stream(path_ / file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(stream.get() ^ bits);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put(byte);
    ASSERT_TRUE(stream.good());
  }

  std::string load_error() {
    TestState loaded(0);
    try {
      load(path_, loaded.visitor());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::checkpoint);
      return error.what();
    }
    EXPECT_TRUE(same_state(state_, loaded));
    return "loaded";
  }

  const PieceRecord& piece_of(const char* tensor, std::size_t index = 0) {
    manifest_ = read_manifest(path_);
    return manifest_.tensors.at(tensor).pieces.at(index);
  }

  static void expect_named(const std::string& message, std::initializer_list<std::string> parts) {
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << part << "\nis not in\n" << message;
  }

  TestState state_{11};
  ScratchFolder folder_;
  fs::path path_;
  Manifest manifest_;
};

TEST_F(Damaged, NotAtAll) {
  EXPECT_TRUE(verify(path_).empty());
  EXPECT_EQ(load_error(), "loaded");
}

TEST_F(Damaged, AByteOfATensor) {
  const PieceRecord& piece = piece_of("optim/exp_avg/moments");
  const std::string file = manifest_.files[piece.file].name;
  flip(file, piece.offset + piece.bytes / 2, 0x40);
  const std::string message = load_error();
  expect_named(message, {file, "is damaged in bytes ["});
  const std::vector<Damage> damages = verify(path_);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].file, file);
  EXPECT_LE(damages[0].begin, piece.offset + piece.bytes / 2);
  EXPECT_GT(damages[0].end, piece.offset + piece.bytes / 2);
  expect_named(damages[0].what, {"optim/exp_avg/moments"});
}

TEST_F(Damaged, TheTensorIsNamedWhenItIsReadAlone) {
  const PieceRecord& piece = piece_of("data/mask");
  flip(manifest_.files[piece.file].name, piece.offset);
  at::Tensor mask = at::zeros({77}, at::kBool);
  try {
    load(path_, [&](Scope& scope) { scope.tensor("data/mask", mask); },
         {.unnamed = Unnamed::ignore});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    expect_named(error.what(), {"tensor data/mask", manifest_.files[piece.file].name});
  }
}

TEST_F(Damaged, AByteOfHdf5sMetadata) {
  flip(kShards[1], 3);  // the signature of the file
  const std::vector<Damage> damages = verify(path_);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].file, kShards[1]);
  EXPECT_EQ(damages[0].begin, 0u);
  expect_named(damages[0].what, {"HDF5 metadata"});
}

TEST_F(Damaged, Truncation) {
  const std::uintmax_t size = fs::file_size(path_ / kShards[0]);
  fs::resize_file(path_ / kShards[0], size - 1);
  expect_named(load_error(), {kShards[0], std::to_string(size)});
  const std::vector<Damage> damages = verify(path_);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].file, kShards[0]);
  EXPECT_EQ(damages[0].begin, size - 1);
  EXPECT_EQ(damages[0].end, size);
  expect_named(damages[0].what, {std::to_string(size - 1), "missing: "});
}

TEST_F(Damaged, AMissingShard) {
  fs::remove(path_ / kShards[1]);
  expect_named(load_error(), {kShards[1], "No such file"});
  ASSERT_EQ(verify(path_).size(), 1u);
  EXPECT_EQ(verify(path_)[0].file, kShards[1]);
}

TEST_F(Damaged, AFolderOrAPipeInPlaceOfAShard) {
  fs::remove(path_ / kShards[1]);
  fs::create_directory(path_ / kShards[1]);
  expect_named(load_error(), {kShards[1], "not a regular file"});
  fs::remove(path_ / kShards[1]);
  ASSERT_EQ(::mkfifo((path_ / kShards[1]).c_str(), 0600), 0);
  expect_named(load_error(), {kShards[1], "not a regular file"});
}

TEST_F(Damaged, SwappedShards) {
  fs::rename(path_ / kShards[0], path_ / "x");
  fs::rename(path_ / kShards[1], path_ / kShards[0]);
  fs::rename(path_ / "x", path_ / kShards[1]);
  expect_named(load_error(), {"shard-0000"});
  const std::vector<Damage> damages = verify(path_);
  ASSERT_GE(damages.size(), 2u);
  EXPECT_EQ(damages.front().file, kShards[0]);
  EXPECT_EQ(damages.back().file, kShards[1]);
}

TEST_F(Damaged, AShardOfAnotherCheckpoint) {
  // The same sizes, names and tensors: only the digests tell.
  TestState other(12);
  const fs::path another = save_as(2, other, folder_.path(), 11);
  ASSERT_EQ(fs::file_size(another / kShards[0]), fs::file_size(path_ / kShards[0]));
  fs::copy_file(another / kShards[0], path_ / kShards[0], fs::copy_options::overwrite_existing);
  expect_named(load_error(), {kShards[0], "is damaged in bytes ["});
  EXPECT_FALSE(verify(path_).empty());
}

TEST_F(Damaged, AnEditedManifest) {
  std::string text = read_text_file(path_ / kManifestName, 1 << 24, ExitCode::checkpoint);
  text.replace(text.find("\"step\": 10"), 10, "\"step\": 11");
  write_file_durable(path_ / kManifestName, text, ExitCode::checkpoint);
  expect_named(load_error(), {"manifest.json is damaged", "it was edited or a bit flipped"});
  ASSERT_EQ(verify(path_).size(), 1u);
  EXPECT_EQ(verify(path_)[0].file, kManifestName);
  fs::remove(path_ / kManifestName);
  expect_named(load_error(), {"manifest.json", "No such file"});
}

TEST_F(Damaged, AFileThatGrew) {
  const std::uintmax_t size = fs::file_size(path_ / kShards[1]);
  fs::resize_file(path_ / kShards[1], size + 5);
  expect_named(load_error(), {kShards[1], std::to_string(size + 5)});
  const std::vector<Damage> damages = verify(path_);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].begin, size);
  EXPECT_EQ(damages[0].end, size + 5);
}

TEST_F(Damaged, AFileThatNobodyListed) {
  write_file_durable(path_ / "notes.txt", "12345", ExitCode::environment);
  EXPECT_EQ(load_error(), "loaded");
  const std::vector<Damage> damages = verify(path_);
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].file, "notes.txt");
  EXPECT_EQ(damages[0].end, 5u);
  expect_named(damages[0].what, {"does not list it"});
}

TEST_F(Damaged, AFolderOfAnotherStepsName) {
  const fs::path renamed = folder_.path() / "step-00000011";
  fs::rename(path_, renamed);
  ASSERT_EQ(verify(renamed).size(), 1u);
  expect_named(verify(renamed)[0].what, {"of step 10", "of step 11"});
  EXPECT_THROW(require_complete(renamed), DamageError);
  fs::rename(renamed, folder_.path() / "elsewhere");  // a name that says no step
  EXPECT_TRUE(verify(folder_.path() / "elsewhere").empty());
}

TEST_F(Damaged, SeveralBlocksAreAllNamed) {
  const PieceRecord& piece = piece_of("model/blocks.0.large");
  const std::string file = manifest_.files[piece.file].name;
  flip(file, piece.offset);
  flip(file, manifest_.files[piece.file].bytes - 1);
  const std::vector<Damage> damages = verify(path_);
  const bool one_block = manifest_.files[piece.file].block_digests.size() == 1;
  EXPECT_EQ(damages.size(), one_block ? 1u : 2u);
}

TEST_F(Damaged, WhatTheSystemSaysIsNoDamage) {
  fs::remove(path_ / kShards[1]);
  fs::create_symlink(kShards[1], path_ / kShards[1]);  // to itself: ELOOP, as root, too
  TestState loaded(0);
  try {
    load(path_, loaded.visitor());
    FAIL() << "nothing was thrown";
  } catch (const DamageError& error) {
    FAIL() << error.what();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    expect_named(error.what(), {kShards[1], "symbolic links"});
  }
  EXPECT_THROW(verify(path_), Error);
}

TEST_F(Damaged, AnotherModelIsNoDamage) {
  at::Tensor other = at::zeros({3});
  try {
    load(path_, [&](Scope& scope) { scope.tensor("model/other", other); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(dynamic_cast<const DamageError*>(&error), nullptr);
    expect_named(error.what(), {"tensor model/other is missing"});
  }
}

TEST_F(Damaged, AnyBitAnywhere) {
  std::mt19937_64 random(1);
  const std::string files[] = {std::string(kManifestName), kShards[0], kShards[1]};
  for (int round = 0; round < 100; ++round) {
    const std::string& file = files[random() % 3];
    const std::uint64_t at = random() % fs::file_size(path_ / file);
    const auto bit = static_cast<unsigned char>(1u << random() % 8);
    flip(file, at, bit);
    const std::vector<Damage> damages = verify(path_);
    ASSERT_EQ(damages.size(), 1u) << file << " byte " << at;
    EXPECT_EQ(damages[0].file, file);
    if (round % 10 == 0) {
      const std::string message = load_error();  // either found, or the exact state
      EXPECT_TRUE(message == "loaded" || message.find(file) != std::string::npos) << message;
    }
    flip(file, at, bit);
  }
  EXPECT_EQ(load_error(), "loaded");
}

}  // namespace
}  // namespace trestle::checkpoint
