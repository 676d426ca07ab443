#include "formats/tokenizer_json.h"

#include "tests/formats/hostile.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

using nlohmann::json;
using trestle::testing::damaged;
using trestle::testing::kFirstPiece;
using trestle::testing::refusal;
using trestle::testing::tiny_pieces;
using trestle::testing::tiny_tokenizer_json;

std::string why_not(const json& file) {
  return refusal(ExitCode::data, [&] { parse_tokenizer_json(file.dump(), "tiny/tokenizer.json"); });
}

TEST(TokenizerJson, SaysPiecesMergesTokensAndTemplate) {
  const TokenizerJson read = parse_tokenizer_json(tiny_tokenizer_json().dump(), "tokenizer.json");
  EXPECT_EQ(read.vocabulary.pieces, tiny_pieces());
  ASSERT_EQ(read.vocabulary.merges.size(), 5U);
  EXPECT_EQ(read.vocabulary.merges[2].left, kFirstPiece + 1);
  EXPECT_EQ(read.vocabulary.merges[2].right, kFirstPiece + 5);
  EXPECT_EQ(read.vocabulary.merges[2].merged, kFirstPiece + 6);
  ASSERT_EQ(read.vocabulary.added.size(), 8U);
  EXPECT_EQ(read.vocabulary.added[4].content, "<mask>");
  EXPECT_EQ(read.vocabulary.added[4].id, 4);
  EXPECT_TRUE(read.vocabulary.added[4].special);
  EXPECT_FALSE(read.vocabulary.added[6].special);
  EXPECT_EQ(read.before, std::vector<std::int64_t>{2});
  EXPECT_TRUE(read.after.empty());
  EXPECT_EQ(read.pad_token, "");
}

TEST(TokenizerJson, ReadsWhatOlderFilesWriteDifferently) {
  json file = tiny_tokenizer_json();
  file["model"]["merges"] = {"b c", "a b", "a bc", "ab c", "\u2581 a"};
  file["model"].erase("ignore_merges");
  file["pre_tokenizer"] = nullptr;
  file["truncation"] = {{"direction", "Right"}, {"max_length", 300}};
  file["padding"] = {{"direction", "Left"}, {"pad_token", "<mask>"}};
  const TokenizerJson read = parse_tokenizer_json(file.dump(), "tokenizer.json");
  EXPECT_EQ(read.vocabulary.merges.size(), 5U);
  EXPECT_EQ(read.pad_token, "<mask>");
}

TEST(TokenizerJson, WhateverGivesOtherIdsIsRefusedByName) {
  const auto expect = [](const char* place, const json& value, const std::string& why) {
    json file = tiny_tokenizer_json();
    file[json::json_pointer(place)] = value;
    const std::string message = why_not(file);
    EXPECT_NE(message.find("tiny/tokenizer.json is no tokenizer that can be used"),
              std::string::npos);
    EXPECT_NE(message.find(why), std::string::npos) << place << "\n" << message;
  };
  expect("/model/type", "Unigram", "its model (\"Unigram\") is not BPE");
  expect("/model/dropout", 0.1, "it sets \"dropout\"");
  expect("/model/end_of_word_suffix", "</w>", "it sets \"end_of_word_suffix\"");
  expect("/model/continuing_subword_prefix", "##", "\"continuing_subword_prefix\"");
  expect("/model/byte_fallback", false, "it has no \"byte_fallback\"");
  expect("/model/ignore_merges", true, "it sets \"ignore_merges\"");
  expect("/model/beams", 4, "its model has the key \"beams\"");
  expect("/trick", 1, "it has the key \"trick\"");
  expect("/normalizer", {{"type", "Lowercase"}}, "its normalizer (\"Lowercase\") is not Gemma's");
  expect("/normalizer", nullptr, "its normalizer (null) is not Gemma's");
  expect("/normalizer/content", "_", "its normalizer (\"Replace\")");
  expect("/pre_tokenizer", {{"type", "ByteLevel"}}, "its pre_tokenizer (\"ByteLevel\")");
  expect("/decoder", {{"type", "ByteLevel"}}, "its decoder (\"ByteLevel\")");
  expect("/post_processor", {{"type", "ByteLevel"}}, "its post_processor (\"ByteLevel\")");
  expect("/truncation", {{"direction", "Left"}}, "another side than the right");
  expect("/padding", {{"direction", "Left"}}, "\"pad_token\" is not a text");
  expect("/added_tokens/0/lstrip", true, "the added token \"<pad>\" sets \"lstrip\"");
  expect("/added_tokens/0/single_word", true, "sets \"single_word\"");
  expect("/added_tokens/0/content", "", "an added token has no content");
  expect("/added_tokens/0/id", -1, "the id of an added token is none");
  expect("/added_tokens/0/color", 1, "an added token has the key \"color\"");
  expect("/added_tokens/0/special", 1, "is neither true nor false");
}

TEST(TokenizerJson, WhatIsNotWholeIsRefused) {
  const auto expect = [](const char* place, const json& value, const std::string& why) {
    json file = tiny_tokenizer_json();
    file[json::json_pointer(place)] = value;
    const std::string message = why_not(file);
    EXPECT_NE(message.find(why), std::string::npos) << place << "\n" << message;
  };
  expect("/model", 3, "\"model\" is not an object");
  expect("/model/vocab", json::object(), "\"vocab\" has no pieces");
  expect("/model/vocab/a", 0, "the ids of \"vocab\" are not 0 to 272, each once");
  expect("/model/vocab/a", 273, "(\"a\" has \"273\")");
  expect("/model/vocab/a", "x", "the ids of \"vocab\"");
  expect("/model/vocab/", 273, "\"vocab\" has an empty piece");
  expect("/model/merges", json::parse(R"([["a", "c"]])"),
         "a merge needs \"ac\", which \"vocab\" has not");
  expect("/model/merges", json::parse(R"([["a", "b", "c"]])"), "something other than pairs");
  expect("/model/merges", json::parse(R"(["a b c"])"), "something other than pairs");
  expect("/post_processor/single", json::array(), "its template has no sequence");
  expect("/post_processor/single/1/Sequence/id", "B", "another sequence than A");
  expect("/post_processor/single/0/SpecialToken/id", "<s>", "is not a token of the template");
  expect("/post_processor/special_tokens/<bos>/ids", json::parse("[-1]"), "an id that is none");
  json file = tiny_tokenizer_json();
  file.erase("added_tokens");
  EXPECT_NE(why_not(file).find("\"added_tokens\" is not a list"), std::string::npos);
  EXPECT_NE(why_not(json::array()).find("not an object"), std::string::npos);
}

TEST(TokenizerJson, DamagedFilesAreReadOrRefused) {
  const std::string good = tiny_tokenizer_json().dump();
  int refused = 0;
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    const std::string bad = damaged(good, seed);
    try {
      parse_tokenizer_json(bad, "tokenizer.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace trestle::formats
