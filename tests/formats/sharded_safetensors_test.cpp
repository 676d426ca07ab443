// Folders of safetensors files; that diffusers' own are read, and ours by it, is for the oracle
// (tests/oracle/weights_oracle.py).
#include "formats/sharded_safetensors.h"

#include "base/error.h"
#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace trestle::formats {
namespace {

namespace fs = std::filesystem;
using trestle::testing::get_file;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TensorToWrite bytes_tensor(const std::string& name, std::string_view data) {
  return {name, ElementType::uint8, {static_cast<std::int64_t>(data.size())}, as_bytes(data)};
}

class ShardedSafetensorsTest : public ::testing::Test {
 protected:
  void write(std::uint64_t max_shard_bytes, const std::string& stem = "model") {
    write_sharded_safetensors(folder_.path(), stem, kTensors, max_shard_bytes, {{"format", "pt"}});
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    return names;
  }
  void put_index(const std::string& text) {
    put_file(folder_.path() / "model.safetensors.index.json", text);
  }
  void expect_refusal(const std::string& why, std::string_view variant = {}) {
    const std::string message =
        refusal(ExitCode::data, [&] { ShardedSafetensors::open(folder_.path(), variant); });
    EXPECT_NE(message.find(why), message.npos) << why << "\n" << message;
  }
  static std::string bytes_of(const ShardedSafetensors& weights, const std::string& name) {
    for (const SafetensorsFile& shard : weights.shards()) {
      const TensorEntry* entry = shard.find(name);
      if (entry == nullptr) continue;
      std::string bytes(entry->size_bytes(), '?');
      shard.read(*entry, std::as_writable_bytes(std::span(bytes)));
      return bytes;
    }
    return "no such tensor";
  }

  const std::vector<TensorToWrite> kTensors = {bytes_tensor("c", "0123"), bytes_tensor("a", "45"),
                                               bytes_tensor("b", "6789abcdef"),
                                               bytes_tensor("d", "gh")};
  ScratchFolder folder_;
};

TEST_F(ShardedSafetensorsTest, ShardsAreFilledInOrderAndLargeTensorsStandAlone) {
  write(6);
  EXPECT_EQ(files(), (std::vector<std::string>{
                         "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                         "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  EXPECT_EQ(get_file(folder_.path() / "model.safetensors.index.json"),
            "{\n  \"metadata\": {\n    \"total_size\": 18\n  },\n  \"weight_map\": {\n"
            "    \"a\": \"model-00002-of-00003.safetensors\",\n"
            "    \"b\": \"model-00001-of-00003.safetensors\",\n"
            "    \"c\": \"model-00002-of-00003.safetensors\",\n"
            "    \"d\": \"model-00003-of-00003.safetensors\"\n  }\n}\n");
  const auto weights = ShardedSafetensors::open(folder_.path());
  EXPECT_EQ(weights.path(), folder_.path() / "model.safetensors.index.json");
  ASSERT_EQ(weights.shards().size(), 3U);
  EXPECT_EQ(weights.shards()[0].metadata().at("format"), "pt");
  EXPECT_EQ(bytes_of(weights, "a"), "45");
  EXPECT_EQ(bytes_of(weights, "b"), "6789abcdef");
  EXPECT_EQ(bytes_of(weights, "d"), "gh");
  EXPECT_EQ(ShardedSafetensors::open(weights.path()).shards().size(), 3U);
}

TEST_F(ShardedSafetensorsTest, OneFileNeedsNoIndexAndReplacesWhatWasThere) {
  write(6);
  put_file(folder_.path() / "model-card.safetensors", "somebody's");
  write(100);
  EXPECT_EQ(files(), (std::vector<std::string>{"model-card.safetensors", "model.safetensors"}));
  EXPECT_EQ(bytes_of(ShardedSafetensors::open(folder_.path()), "b"), "6789abcdef");
  EXPECT_EQ(ShardedSafetensors::open(folder_.path() / "model.safetensors").shards().size(), 1U);
  write(10);
  EXPECT_EQ(ShardedSafetensors::open(folder_.path()).shards().size(), 3U);
}

TEST_F(ShardedSafetensorsTest, AFolderSaysWhatItHasInstead) {
  expect_refusal("has no weights (diffusion_pytorch_model.safetensors or model.safetensors");
  put_file(folder_.path() / "pytorch_model.bin", "");
  expect_refusal("It has pytorch_model.bin: name that file.");
  fs::remove(folder_.path() / "pytorch_model.bin");
  write(100, "diffusion_pytorch_model.fp16");
  expect_refusal("It has diffusion_pytorch_model.fp16.safetensors: name the file or its variant");
  EXPECT_EQ(ShardedSafetensors::open(folder_.path(), "fp16").shards().size(), 1U);
  expect_refusal("diffusion_pytorch_model.bf16.safetensors or", "bf16");
  write(100, "diffusion_pytorch_model");
  write(6);
  expect_refusal(
      "holds diffusion_pytorch_model.safetensors and model.safetensors.index.json (which of them");
}

TEST_F(ShardedSafetensorsTest, WhatTheIndexAndTheShardsSayMustAgree) {
  write(6);
  const std::string index = get_file(folder_.path() / "model.safetensors.index.json");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = index;
    put_index(text.replace(text.find(from), from.size(), to));
  };
  with("18", "18.0");
  EXPECT_EQ(ShardedSafetensors::open(folder_.path()).shards().size(), 3U);
  with("18", "19");
  expect_refusal("total_size is 19, but the tensors take 18 bytes");
  with("\"a\": \"model-00002", "\"a\": \"model-00001");
  expect_refusal(R"("a" is in model-00002-of-00003.safetensors; the index says model-00001)");
  with("    \"a\": \"model-00002-of-00003.safetensors\",\n", "");
  expect_refusal(R"(the tensor "a" is in model-00002-of-00003.safetensors, but not in the index)");
  with("\"a\"", "\"more\": \"model-00003-of-00003.safetensors\", \"a\"");
  expect_refusal(R"(model-00003-of-00003.safetensors has no tensor "more")");
  put_index(index);
  fs::copy_file(folder_.path() / "model-00003-of-00003.safetensors", folder_.path() / "x");
  fs::remove(folder_.path() / "model-00003-of-00003.safetensors");
  expect_refusal("the shard model-00003-of-00003.safetensors is missing");
  fs::copy_file(folder_.path() / "model-00002-of-00003.safetensors",
                folder_.path() / "model-00003-of-00003.safetensors");
  expect_refusal(R"("a" is in model-00002-of-00003.safetensors and in model-00003-of-00003)");
  expect_refusal("4 problems");  // "a" and "c" twice, no "d", another total_size
  put_file(folder_.path() / "model-00003-of-00003.safetensors", "cut");
  expect_refusal("model-00003-of-00003.safetensors is not a whole safetensors file");
}

TEST_F(ShardedSafetensorsTest, IndicesAreReadStrictly) {
  const auto expect = [&](const std::string& text, const std::string& why) {
    put_index(text);
    expect_refusal("model.safetensors.index.json is no index of safetensors files (");
    expect_refusal(why);
  };
  expect("", "unexpected end of input");
  expect("[]", "not an object");
  expect("{}", "no weight_map");
  expect(R"({"weight_map":{}})", "no weight_map");
  expect(R"({"weight_map":[]})", "no weight_map");
  expect(R"({"weight_map":{"a":"b.safetensors"},"more":1})", R"(it has a key "more")");
  expect(R"({"weight_map":{"a":"b.safetensors","a":"c.safetensors"}})", "appears twice");
  expect(R"({"weight_map":{"a":"b.safetensors"},"metadata":1})", "metadata is not an object");
  for (const char* total : {"-1", "1.5", "\"18\"", "1e17", "null"}) {
    expect(fmt::format(R"({{"weight_map":{{"a":"b.safetensors"}},"metadata":{{"total_size":{}}}}})",
                       total),
           "total_size is not a count");
  }
  for (const char* file : {"../b.safetensors", "/b.safetensors", "c/b.safetensors", ".safetensors",
                           "b.bin", "", "b\\\\c.safetensors", "b\\u0007.safetensors"}) {
    expect(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", file), "no safetensors file beside");
  }
  expect(R"({"weight_map":{"a":1}})", "no safetensors file beside");
}

TEST_F(ShardedSafetensorsTest, AnIndexWithoutATotalIsTaken) {
  write(6);
  std::string text = get_file(folder_.path() / "model.safetensors.index.json");
  const auto end = text.find("\"weight_map\"");
  put_index("{" + text.substr(end));
  EXPECT_EQ(ShardedSafetensors::open(folder_.path()).shards().size(), 3U);
}

}  // namespace
}  // namespace trestle::formats
