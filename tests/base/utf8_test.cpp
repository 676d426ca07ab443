#include "base/utf8.h"

#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

namespace trestle {
namespace {

TEST(Utf8, EveryCharacterComesBack) {
  for (char32_t code = 0; code <= 0x10ffff; ++code) {
    if (code == 0xd800) code = 0xe000;  // surrogates are no characters
    std::string text = "\u20ac";        // something before it
    append_utf8(text, code);
    const Character after = character_at(text, 3);
    const Character before = character_before(text, text.size());
    ASSERT_EQ(after.code, code);
    ASSERT_EQ(after.bytes, text.size() - 3);
    ASSERT_EQ(before.code, code);
    ASSERT_EQ(valid_utf8_bytes(text), text.size());
  }
}

TEST(Utf8, WhatIsNoCharacterIsFound) {
  using namespace std::string_literals;
  for (const std::string& bad : {"\x80"s, "\xff"s, "\xc3"s, "\xe2\x82"s, "\xc0\x80"s, "\xc1\xbf"s,
                                 "\xe0\x9f\xbf"s, "\xed\xa0\x80"s, "\xf0\x8f\xbf\xbf"s,
                                 "\xf4\x90\x80\x80"s, "\xf8\x88\x80\x80\x80"s, "\xc3("s}) {
    EXPECT_EQ(valid_utf8_bytes("ab" + bad + "c"), 2U) << bad;
    EXPECT_EQ(valid_utf8_bytes("\u00e9" + bad), 2U) << bad;
  }
  try {
    require_utf8("ab\xff", "the prompt");
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_STREQ(error.what(),
                 "the prompt is not UTF-8 (byte 3 of 3, 0xff, belongs to no character). Save the "
                 "file that it comes from as UTF-8.");
  }
}

}  // namespace
}  // namespace trestle
