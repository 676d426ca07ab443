#include "formats/sentencepiece_model.h"

#include "tests/formats/hostile.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

using trestle::testing::bytes_field;
using trestle::testing::damaged;
using trestle::testing::model_piece;
using trestle::testing::model_settings;
using trestle::testing::number_field;
using trestle::testing::refusal;
using trestle::testing::tiny_pieces;
using trestle::testing::tiny_tokenizer_model;
using trestle::testing::varint;

std::string why_not(const std::string& bytes) {
  return refusal(ExitCode::data, [&] { parse_sentencepiece_model(bytes, "tiny/tokenizer.model"); });
}

TEST(SentencepieceModel, SaysItsPiecesAndTheirKinds) {
  const auto pieces = parse_sentencepiece_model(tiny_tokenizer_model(), "tokenizer.model");
  const auto texts = tiny_pieces();
  ASSERT_EQ(pieces.size(), texts.size());
  for (std::size_t id = 0; id < texts.size(); ++id) EXPECT_EQ(pieces[id].text, texts[id]);
  EXPECT_EQ(pieces[2].kind, PieceKind::control);
  EXPECT_EQ(pieces[3].kind, PieceKind::unknown);
  EXPECT_EQ(pieces[6].kind, PieceKind::user_defined);
  EXPECT_EQ(pieces[8].kind, PieceKind::byte);
  EXPECT_EQ(pieces.back().kind, PieceKind::normal);
}

TEST(SentencepieceModel, FieldsThatDecideNothingArePassedBy) {
  const std::string more = number_field(99, 1) + bytes_field(98, "x") + varint(97 << 3 | 1) +
                           "12345678" + varint(96 << 3 | 5) + "1234";
  const auto pieces = parse_sentencepiece_model(
      more + bytes_field(1, bytes_field(1, "a") + more) + model_settings(), "tokenizer.model");
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(pieces[0].text, "a");
  EXPECT_EQ(pieces[0].kind, PieceKind::normal) << "which is what a piece is that does not say";
}

TEST(SentencepieceModel, OtherModelsAreRefusedByName) {
  const std::string piece = model_piece("a", 1);
  const auto expect = [&](const std::string& settings, const std::string& why) {
    const std::string message = why_not(piece + settings);
    EXPECT_NE(message.find("tiny/tokenizer.model is no tokenizer that can be used"),
              std::string::npos);
    EXPECT_NE(message.find(why), std::string::npos) << message;
  };
  expect("", "it is a unigram model");  // the format's default
  expect(model_settings() + bytes_field(2, number_field(3, 4)), "a model of characters");
  expect(model_settings() + bytes_field(2, number_field(3, 9)), "a type that does not exist");
  expect(model_settings() + bytes_field(2, number_field(35, 0)), "byte_fallback is off");
  expect(model_settings() + bytes_field(2, number_field(24, 1)),
         "treat_whitespace_as_suffix is on");
  expect(model_settings() + bytes_field(3, bytes_field(2, "x")),
         "normalizes characters by a table");
  expect(model_settings() + bytes_field(3, number_field(3, 1)), "add_dummy_prefix is on");
  expect(model_settings() + bytes_field(3, number_field(4, 1)), "remove_extra_whitespaces is on");
  expect(model_settings() + bytes_field(3, number_field(5, 0)), "escape_whitespaces is off");
}

TEST(SentencepieceModel, WhatIsNotWholeIsRefused) {
  const auto expect = [](const std::string& bytes, const std::string& why) {
    EXPECT_NE(why_not(bytes).find(why), std::string::npos) << why_not(bytes);
  };
  expect("", "it has no pieces");
  expect(model_settings(), "it has no pieces");
  expect(model_piece("a", 1) + model_piece("a", 4) + model_settings(), "piece 1 is there twice");
  expect(model_piece("", 1), "piece 0 is empty");
  expect(model_piece("\xff", 1), "piece 0 is not UTF-8");
  expect(model_piece("a", 7), "of a kind that does not exist (7)");
  expect(model_piece(std::string(1025, 'a'), 1), "piece 0 has 1025 bytes, and 1024 are the most");
  expect(number_field(1, 3), "a text or a message holds something else");
  expect(bytes_field(1, bytes_field(3, "x")), "a number holds something else");
  expect(varint(1 << 3 | 2) + varint(100) + "a", "a field is longer than what is left");
  expect(varint(1 << 3 | 3), "a wire type that is not in use");
  expect(varint(2), "a field has the number 0");
  expect(std::string(11, '\xff'), "a number is longer than 64 bits");
  expect("\xff", "longer than what is left");
  const std::string good = tiny_tokenizer_model();
  for (std::uint32_t seed = 0; seed < 2000; ++seed) {
    try {
      parse_sentencepiece_model(damaged(good, seed), "tokenizer.model");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
    }
  }
}

}  // namespace
}  // namespace trestle::formats
