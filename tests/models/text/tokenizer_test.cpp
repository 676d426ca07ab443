#include "models/text/tokenizer.h"

#include "tests/formats/hostile.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <random>

namespace trestle::models::text {
namespace {

using nlohmann::json;
using trestle::testing::kFirstByte;
using trestle::testing::kFirstPiece;
using trestle::testing::put_file;
using trestle::testing::refusal;
using trestle::testing::ScratchFolder;
using trestle::testing::tiny_tokenizer_json;
using trestle::testing::tiny_tokenizer_model;

using Ids = std::vector<std::int64_t>;

constexpr std::int64_t kPad = 0, kEos = 1, kBos = 2, kMask = 4, kTurn = 5, kLine = 6,
                       kTwoSpaces = 7;
constexpr std::int64_t kSpace = kFirstPiece, kA = kSpace + 1, kB = kA + 1, kC = kB + 1,
                       kAb = kC + 1, kBc = kAb + 1, kAbc = kBc + 1, kSpaceA = kAbc + 1,
                       kE = kSpaceA + 1;

Tokenizer from_json(const json& file, const char* config = "{}") {
  return Tokenizer({.folder = "tiny", .tokenizer_json = file.dump(), .tokenizer_config = config});
}
Tokenizer from_model(const char* config) {
  return Tokenizer(
      {.folder = "tiny", .tokenizer_model = tiny_tokenizer_model(), .tokenizer_config = config});
}

TEST(Tokenizer, JoinsThePairThatStandsFirstInTheList) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{kBos, kAbc})) << "b+c first, then a+bc";
  EXPECT_EQ(tokenizer.encode("abab"), (Ids{kBos, kAb, kAb}));
  EXPECT_EQ(tokenizer.encode("abbc"), (Ids{kBos, kAb, kBc}));
  EXPECT_EQ(tokenizer.encode(" a b"), (Ids{kBos, kSpaceA, kSpace, kB}));
  EXPECT_EQ(tokenizer.encode(""), Ids{kBos});
}

TEST(Tokenizer, OfEqualPairsTheLeftmostIsJoined) {
  json file = tiny_tokenizer_json();
  const auto id = file["model"]["vocab"].size();
  file["model"]["vocab"]["bb"] = id;
  file["model"]["merges"].push_back("b b");
  Ids pairs(6, static_cast<std::int64_t>(id));
  pairs[0] = kBos;
  pairs.push_back(kB);
  EXPECT_EQ(from_json(file).encode(std::string(11, 'b')), pairs);
}

TEST(Tokenizer, AFileWithoutMergesJoinsInTheOrderOfItsPieces) {
  const Tokenizer tokenizer = from_model("{}");
  EXPECT_EQ(tokenizer.encode("abc"), Ids{kAbc}) << "a+b first: ab stands before bc";
  EXPECT_EQ(tokenizer.encode("bcab"), (Ids{kBc, kAb}));
}

TEST(Tokenizer, ACharacterThatIsNoPieceIsItsBytes) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.encode("\u00e9"), (Ids{kBos, kE}));
  EXPECT_EQ(tokenizer.encode("\u00e8d"),
            (Ids{kBos, kFirstByte + 0xc3, kFirstByte + 0xa8, kFirstByte + 'd'}));
  EXPECT_EQ(tokenizer.encode(std::string(1, '\0')), (Ids{kBos, kFirstByte}));
}

TEST(Tokenizer, AddedTokensAreCutOutFirst) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  EXPECT_EQ(tokenizer.encode("a<start_of_turn>\nb"), (Ids{kBos, kA, kTurn, kLine, kB}));
  EXPECT_EQ(tokenizer.encode("<bos><mask>"), (Ids{kBos, kBos, kMask}));
  EXPECT_EQ(tokenizer.encode("<bos"),
            (Ids{kBos, kFirstByte + '<', kB, kFirstByte + 'o', kFirstByte + 's'}));
  EXPECT_EQ(tokenizer.encode("a  b"), (Ids{kBos, kA, kSpace, kSpace, kB}))
      << "a mark of two spaces is looked for before spaces become marks";
  json later = tiny_tokenizer_json();
  later["added_tokens"][kTwoSpaces]["normalized"] = true;
  EXPECT_EQ(from_json(later).encode("a  b"), (Ids{kBos, kA, kTwoSpaces, kB}));
}

TEST(Tokenizer, OfAddedTokensThatBeginAlikeTheLongestCounts) {
  json file = tiny_tokenizer_json();
  for (const char* content : {"\n\n", "\n\n\n"}) {
    const auto id = file["model"]["vocab"].size();
    file["model"]["vocab"][content] = id;
    file["added_tokens"].push_back({{"id", id}, {"content", content}, {"normalized", false}});
  }
  EXPECT_EQ(from_json(file).encode("\n\n\n\n\na"),
            (Ids{kBos, kFirstPiece + 10, kFirstPiece + 9, kA}));
}

TEST(Tokenizer, OnlyTheTemplateOfTheJsonSaysWhatStandsAround) {
  json file = tiny_tokenizer_json();
  EXPECT_EQ(from_json(file, R"({"add_bos_token": false})").encode("a"), (Ids{kBos, kA}));
  file["post_processor"]["single"].push_back({{"SpecialToken", {{"id", "<eos>"}}}});
  file["post_processor"]["special_tokens"]["<eos>"] = {{"ids", json::array({1})}};
  EXPECT_EQ(from_json(file).encode("a"), (Ids{kBos, kA, kEos}));
  file["post_processor"] = nullptr;
  EXPECT_EQ(from_json(file, R"({"add_bos_token": true})").encode("a"), Ids{kA});
}

TEST(Tokenizer, WithoutATemplateTheConfigurationSaysIt) {
  EXPECT_EQ(from_model("{}").encode("a"), Ids{kA});
  EXPECT_EQ(from_model(R"({"add_bos_token": true})").encode("a"), (Ids{kBos, kA}));
  EXPECT_EQ(from_model(R"({"add_bos_token": true, "add_eos_token": true})").encode("a"),
            (Ids{kBos, kA, kEos}));
  EXPECT_EQ(from_model(R"({"add_bos_token": true, "bos_token": "<mask>"})").encode("a"),
            (Ids{kMask, kA}));
}

TEST(Tokenizer, PadsOnTheRightAndCutsOnTheRight) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  const std::vector<std::string> texts = {"a", "", "\nabababab"};
  const PaddedTokens tokens = tokenizer.encode_padded(texts, 4);
  EXPECT_EQ(tokens.rows, 3);
  EXPECT_EQ(tokens.length, 4);
  EXPECT_EQ(tokens.ids, (Ids{kBos, kA, kPad, kPad, kBos, kPad, kPad, kPad, kBos, kLine, kAb, kAb}));
  EXPECT_EQ(tokens.mask, (Ids{1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}));
  const Tokenizer both = from_model(R"({"add_bos_token": true, "add_eos_token": true})");
  EXPECT_EQ(both.encode_padded(texts, 3).ids,
            (Ids{kBos, kA, kEos, kBos, kEos, kPad, kBos, kLine, kEos}));
  EXPECT_NE(refusal(ExitCode::data, [&] { both.encode_padded(texts, 1); }).find("1 tokens"),
            std::string::npos);
  const Tokenizer none = from_json(tiny_tokenizer_json(), R"({"pad_token": null})");
  EXPECT_NE(refusal(ExitCode::data, [&] { none.encode_padded(texts, 4); }).find("no pad_token"),
            std::string::npos);
}

TEST(Tokenizer, DecodesWhatItEncoded) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  const std::string text = "a bc\n\u00e9\u00e8\U0001f600 \t";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text), SpecialTokens::keep), "<bos>" + text);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text), SpecialTokens::leave_out), text);
  const Tokenizer extra =
      from_json(tiny_tokenizer_json(), R"({"extra_special_tokens": ["\n", "abc"]})");
  EXPECT_EQ(extra.decode(extra.encode("abc\na"), SpecialTokens::leave_out), "\na")
      << "the list's own say whether they are special";
  EXPECT_EQ(tokenizer.decode(Ids{kFirstByte + 0xc3, kFirstByte + 'a', kA}, SpecialTokens::keep),
            "\ufffd\ufffda");
  EXPECT_NE(refusal(ExitCode::data, [&] { tokenizer.decode(Ids{-1}, SpecialTokens::keep); }), "");
  EXPECT_NE(refusal(ExitCode::data,
                    [&] { tokenizer.decode(Ids{tokenizer.size()}, SpecialTokens::keep); }),
            "");
}

TEST(Tokenizer, ALongTextTakesNoTimeWorthMentioning) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  std::mt19937 random(1);
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += "abc \n"[random() % 5];
  EXPECT_GT(tokenizer.encode(text).size(), 100'000U);  // a quadratic one would not return
}

TEST(Tokenizer, APromptThatIsNotUtf8IsRefused) {
  const Tokenizer tokenizer = from_json(tiny_tokenizer_json());
  EXPECT_NE(refusal(ExitCode::data, [&] { tokenizer.encode("a\xff"); })
                .find("a prompt is not UTF-8 (byte 2 of 2"),
            std::string::npos);
}

TEST(Tokenizer, AFolderIsReadAndWhatIsMissingIsNamed) {
  const ScratchFolder folder;
  const auto message = [&](const std::filesystem::path& path) {
    return refusal(ExitCode::data, [&] { Tokenizer::from_folder(path); });
  };
  EXPECT_NE(message(folder.path() / "none").find("is no folder"), std::string::npos);
  EXPECT_NE(message(folder.path()).find("neither tokenizer.json nor tokenizer.model is in it"),
            std::string::npos);
  put_file(folder.path() / "tokenizer.model", tiny_tokenizer_model());
  put_file(folder.path() / "tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_EQ(Tokenizer::from_folder(folder.path()).encode("abc"), (Ids{kBos, kAbc}));
  put_file(folder.path() / "tokenizer.json", tiny_tokenizer_json().dump());
  EXPECT_EQ(Tokenizer::from_folder(folder.path()).encode("abbc"), (Ids{kBos, kAb, kBc}));
  put_file(folder.path() / "special_tokens_map.json", R"({"pad_token": "<mask>"})");
  EXPECT_EQ(Tokenizer::from_folder(folder.path()).pad_id(), kMask);
  put_file(folder.path() / "tokenizer_config.json",
           R"({"added_tokens_decoder": {"6": {"content": "\n", "normalized": false}}})");
  const Tokenizer listed = Tokenizer::from_folder(folder.path());
  EXPECT_EQ(listed.pad_id(), kPad) << "a configuration that lists its tokens makes the map idle";
  EXPECT_EQ(listed.encode("<start_of_turn>").size(), 16U) << "and its list takes the other's place";
}

TEST(Tokenizer, FilesThatDoNotFitEachOtherAreRefused) {
  const auto message = [](const json& file, const char* config) {
    return refusal(ExitCode::data, [&] { from_json(file, config); });
  };
  json file = tiny_tokenizer_json();
  EXPECT_NE(message(file, R"({"pad_token": "<fill>"})").find("pad_token is none of its pieces"),
            std::string::npos);
  file["added_tokens"][3]["id"] = 9;
  EXPECT_NE(message(file, "{}").find("added token 9 of its list comes out as 3"),
            std::string::npos);
  file = tiny_tokenizer_json();
  file["post_processor"]["special_tokens"]["<bos>"]["ids"] = json::array({5000});
  EXPECT_NE(message(file, "{}").find("its template has the id 5000"), std::string::npos);
  file = tiny_tokenizer_json();
  file["model"]["vocab"].erase("<0xFE>");
  file["model"]["vocab"]["d"] = kFirstByte + 0xfe;
  EXPECT_NE(message(file, "{}").find("no piece stands for the byte 0xFE"), std::string::npos);
  EXPECT_NE(
      refusal(ExitCode::data, [] { from_model(R"({"add_bos_token": true, "bos_token": null})"); })
          .find("needs a bos_token"),
      std::string::npos);
}

TEST(Tokenizer, ATabMayBeAPieceInPlaceOfItsByte) {
  json file = tiny_tokenizer_json();
  file["model"]["vocab"].erase("<0x09>");
  file["model"]["vocab"]["\t"] = kFirstByte + 9;
  EXPECT_EQ(from_json(file).encode("\t"), (Ids{kBos, kFirstByte + 9}));
}

}  // namespace
}  // namespace trestle::models::text
