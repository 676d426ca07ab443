// The manifest's text: what is written reads back, and nothing hostile gets through.
#include "checkpoint/manifest.h"

#include "base/digest.h"
#include "base/error.h"
#include "checkpoint/damage.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <functional>

namespace trestle::checkpoint {
namespace {

using nlohmann::json;

Manifest example() {
  Manifest manifest;
  manifest.step = 100;
  manifest.world = 2;
  manifest.topology = TopologyRecord{.host_of_rank = {0, 1}, .levels = 2};
  manifest.epoch = 3;
  manifest.recipe_hash = "abc";
  manifest.recipe_toml = "[run]\nname = \"\xC3\xA9\"\n";
  manifest.versions = {{"torch", "2.11.0"}};
  manifest.values = {{"step", std::int64_t{100}}, {"loss", 0.1}, {"name", std::string("a/b")}};
  manifest.files = {{"shard-0.h5", 6000, {1}}, {"shard-1.h5", kBlockBytes + 1, {2, 0xABCDEF}}};
  manifest.tensors["model/w"] = {
      {4, 5},
      formats::ElementType::float32,
      {{0, "model/w[0:8]", 2048, 32, 0, 8}, {1, "model/w[8:20]", 512, 48, 8, 20}}};
  manifest.tensors["model/none"] = {
      {0, 5}, formats::ElementType::int64, {{0, "model/none", 0, 0, 0, 0}}};
  return manifest;
}

/// The text of a manifest that somebody edited with care: with the right digest.
std::string sealed(json edited) {
  edited.erase("digest");
  edited["digest"] = digest_128(edited.dump());
  return edited.dump(1) + "\n";
}

std::string refusal_of(const std::string& text) {
  try {
    Manifest manifest = parse_manifest(text, "step-1/manifest.json");
    require_whole(manifest, "step-1/manifest.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_EQ(std::string(error.what()).find("step-1/manifest.json is damaged ("), 0u)
        << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(Manifest, TextReadsBackEqual) {
  const std::string text = to_text(example());
  EXPECT_EQ(refusal_of(text), "accepted");
  const Manifest read = parse_manifest(text, "m");
  EXPECT_EQ(to_text(read), text);
  EXPECT_EQ(read.recipe_toml, example().recipe_toml);
  EXPECT_EQ(read.topology, example().topology);
  EXPECT_EQ(read.epoch, 3);
  EXPECT_EQ(read.values, example().values);
  EXPECT_EQ(read.files[1].block_digests, example().files[1].block_digests);
  const PieceRecord& piece = read.tensors.at("model/w").pieces[1];
  EXPECT_EQ(read.files[piece.file].name, "shard-1.h5");
  EXPECT_EQ(piece.offset, 512u);
  EXPECT_EQ(sealed(json::parse(text)), text);
}

TEST(Manifest, AnEarlyOneSaysNothingOfItsTopologyAndEpoch) {
  json early = json::parse(to_text(example()));
  early.erase("topology");
  early.erase("epoch");
  const std::string text = sealed(early);
  EXPECT_EQ(refusal_of(text), "accepted");
  const Manifest read = parse_manifest(text, "m");
  EXPECT_FALSE(read.topology);
  EXPECT_EQ(read.epoch, 0);
  EXPECT_EQ(to_text(read), text);
}

TEST(Manifest, FieldsOfLaterVersionsAreSkipped) {
  json later = json::parse(to_text(example()));
  later["era"] = {{"a", {1, 2.5, nullptr}}};
  later["files"][0]["mirror"] = "x";
  later["tensors"]["model/w"]["pieces"][0]["codec"] = "none";
  EXPECT_EQ(refusal_of(sealed(later)), "accepted");
}

TEST(Manifest, ALaterVersionIsRefusedAndIsNoDamage) {
  json later = json::parse(to_text(example()));
  later["format_version"] = 2;
  later["files"] = "elsewhere";
  const auto read = [](const std::string& text) { return parse_manifest(text, "step-1/m"); };
  try {
    read(sealed(later));
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(dynamic_cast<const DamageError*>(&error), nullptr);
    EXPECT_NE(std::string(error.what()).find("format_version 2, and this program reads 1"),
              std::string::npos)
        << error.what();
  }
  later["digest"] = std::string(32, '0');
  EXPECT_THROW(read(later.dump(1) + "\n"), DamageError);
}

TEST(Manifest, EveryFlippedBitIsNoticed) {
  const std::string text = to_text(example());
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    ASSERT_NE(refusal_of(flipped), "accepted") << "bit " << bit;
  }
}

TEST(Manifest, EveryCutIsNoticed) {
  const std::string text = to_text(example());
  for (std::size_t length = 0; length < text.size(); ++length)
    ASSERT_NE(refusal_of(text.substr(0, length)), "accepted") << length;
  EXPECT_NE(refusal_of(text + "\n"), "accepted");
}

TEST(Manifest, EditsWithARightDigestAreStillChecked) {
  struct Case {
    std::string expected;
    std::function<void(json&)> edit;
  };
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 63;
  const auto piece = [](json& m) -> json& { return m["tensors"]["model/w"]["pieces"][0]; };
  const auto second = [](json& m) -> json& { return m["tensors"]["model/w"]["pieces"][1]; };
  const auto shape = [](json& m) -> json& { return m["tensors"]["model/w"]["shape"]; };
  const std::vector<Case> cases = {
      {"\"format\" is not", [](json& m) { m["format"] = "other"; }},
      {"\"step\" is not a number", [](json& m) { m["step"] = -1; }},
      {"\"step\" is not a number", [](json& m) { m["step"] = 1.0; }},
      {"\"step\" is not a number", [&](json& m) { m["step"] = kHuge; }},
      {"\"world\" is 0", [](json& m) { m["world"] = 0; }},
      {"\"epoch\" is not a number", [](json& m) { m["epoch"] = -1; }},
      {"\"levels\" is 3", [](json& m) { m["topology"]["levels"] = 3; }},
      {"\"levels\" is 0", [](json& m) { m["topology"]["levels"] = 0; }},
      {"field \"levels\" is missing", [](json& m) { m["topology"] = json::object(); }},
      {"with \"levels\" is expected", [](json& m) { m["topology"] = 2; }},
      {"\"host_of_rank\" has 1 of 2 ranks", [](json& m) { m["topology"]["host_of_rank"] = {0}; }},
      {"\"host_of_rank\" names host 7 before host 1",
       [](json& m) {
         m["topology"]["host_of_rank"] = {0, 7};
       }},
      {"\"host_of_rank\" is not a number",
       [](json& m) {
         m["topology"]["host_of_rank"] = {0, -1};
       }},
      {"\"files\" is not a list", [](json& m) { m["files"] = json::object(); }},
      {"field \"tensors\" is missing", [](json& m) { m.erase("tensors"); }},
      {"\"tensors\" is not an object", [](json& m) { m["tensors"] = json::array(); }},
      {"\"../a\" is not the name", [](json& m) { m["files"][0]["name"] = "../a"; }},
      {"\"/etc/passwd\" is not the name", [](json& m) { m["files"][0]["name"] = "/etc/passwd"; }},
      {"\"a\\u0000b\" is not the name",
       [](json& m) { m["files"][0]["name"] = std::string("a\0b", 3); }},
      {"\"\" is not the name", [](json& m) { m["files"][0]["name"] = ""; }},
      {"shard-0.h5 is listed twice", [](json& m) { m["files"].push_back(m["files"][0]); }},
      {"block_bytes is not", [](json& m) { m["files"][0]["block_bytes"] = 0; }},
      {"1 block digests for 9000000", [](json& m) { m["files"][0]["bytes"] = 9000000; }},
      {"\"zz\" is not a block digest", [](json& m) { m["files"][0]["xxh3_64"][0] = "zz"; }},
      {"value \"loss\" is not a float64", [](json& m) { m["values"]["loss"]["float64"] = "1x"; }},
      {"not exactly one type", [](json& m) { m["values"]["loss"]["int64"] = 1; }},
      {"value \"step\" is not an int64", [&](json& m) { m["values"]["step"]["int64"] = kHuge; }},
      {"tensor \"model/w\": dtype \"float8\" is not one that checkpoints hold",
       [](json& m) { m["tensors"]["model/w"]["dtype"] = "float8"; }},
      {"dtype \"uint32\" is not one that checkpoints hold",  // of float32's size, and no HDF5 type
       [](json& m) { m["tensors"]["model/w"]["dtype"] = "uint32"; }},
      {"tensor \"model/w\": the shape is too large",
       [&](json& m) {
         shape(m) = {kHuge / 2, 4};
       }},
      {"the shape is too large",
       [&](json& m) {
         shape(m) = {kHuge / 2, 2, kHuge / 2, 4};
       }},
      {"the shape is too large",
       [&](json& m) {
         shape(m) = {kHuge / 2, kHuge / 2, 0};
       }},
      {"\"shape\" is not a number",
       [&](json& m) {
         shape(m) = {-4, -5};
       }},
      {"lies in \"c.h5\"", [&](json& m) { piece(m)["file"] = "c.h5"; }},
      {"end beyond shard-0.h5", [&](json& m) { piece(m)["offset"] = 5969; }},
      {"end beyond shard-0.h5", [&](json& m) { piece(m)["offset"] = kHuge - 1; }},
      {"do not have 33 bytes", [&](json& m) { piece(m)["bytes"] = 33; }},
      {"elements [0, 21) do not exist",
       [&](json& m) {
         piece(m)["end"] = 21;
         piece(m)["bytes"] = 84;
       }},
      {"elements [9, 8) do not exist", [&](json& m) { piece(m)["begin"] = 9; }},
      {"pieces leave a gap at element 0",
       [&](json& m) {
         piece(m)["begin"] = 1;
         piece(m)["bytes"] = 28;
       }},
      {"pieces overlap at element 8, in shard-1.h5",
       [&](json& m) {
         second(m)["begin"] = 7;
         second(m)["bytes"] = 52;
       }},
      {"pieces end at element 19 of 20",
       [&](json& m) {
         second(m)["end"] = 19;
         second(m)["bytes"] = 44;
       }},
      {"pieces overlap", [&](json& m) { m["tensors"]["model/w"]["pieces"].push_back(piece(m)); }},
      {"pieces end at element 0 of 20",
       [&](json& m) { m["tensors"]["model/w"]["pieces"] = json::array(); }},
      {"pieces end at element 0 of 0",
       [&](json& m) { m["tensors"]["model/none"]["pieces"] = json::array(); }},
      {"nested more than",
       [](json& m) {
         json deep = 1;
         for (int i = 0; i < 40; ++i) deep = json::array({deep});
         m["extra"] = deep;
       }},
  };
  for (const Case& one : cases) {
    json edited = json::parse(to_text(example()));
    one.edit(edited);
    const std::string refusal = refusal_of(sealed(edited));
    EXPECT_NE(refusal.find(one.expected), std::string::npos) << one.expected << "\n" << refusal;
  }
}

TEST(Manifest, StrangeTextsAreRefused) {
  for (const std::string text :
       {"", "{}", "[]", "null", "1e999", "{\"format\": 1}", "{\"format\":\"trestle-checkpoint\"}",
        "\xFF\xFE", "{\"a\":1,\"a\":2}"})
    EXPECT_NE(refusal_of(text), "accepted") << text;
  EXPECT_NE(refusal_of(std::string(1 << 20, '[')), "accepted");
  // Equal to a parser, and yet not the bytes that were written.
  const std::string text = to_text(example());
  const std::string spaced = std::string(text).replace(text.find("\n \"files"), 2, "\n\t");
  EXPECT_NE(refusal_of(spaced).find("edited or a bit flipped"), std::string::npos);
}

TEST(Manifest, TextThatIsNotUtf8IsNotWritten) {
  Manifest manifest = example();
  manifest.values["note"] = std::string("\xFF");
  EXPECT_THROW(to_text(manifest), Error);
}

TEST(Manifest, MergingRanksThatDisagreeIsAnError) {
  Manifest other = example();
  other.files = {{"shard-2.h5", 6000, {1}}};
  other.tensors.clear();
  other.tensors["model/w"] = {{5, 4}, formats::ElementType::float32, {}};
  EXPECT_THROW(merge({example(), other}), Error);
  other.tensors["model/w"] = {{4, 5}, formats::ElementType::float32, {{0, "x", 0, 4, 3, 4}}};
  const Manifest merged = merge({example(), other});
  ASSERT_EQ(merged.tensors.at("model/w").pieces.size(), 3u);
  EXPECT_EQ(merged.tensors.at("model/w").pieces[2].file, 2u);
}

}  // namespace
}  // namespace trestle::checkpoint
