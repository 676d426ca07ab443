// A few of the rules by hand; tests/oracle/tokenizer_oracle.py compares every character with
// Python.
#include "models/text/python_text.h"

#include <gtest/gtest.h>

namespace trestle::models::text {
namespace {

TEST(PythonText, LowerKnowsMoreThanAscii) {
  EXPECT_EQ(lower("A Cat, ZZ09[@`{"), "a cat, zz09[@`{");
  EXPECT_EQ(lower("\u00c4\u1e9e\u0416\u0531"), "\u00e4\u00df\u0436\u0561");
  EXPECT_EQ(lower("\u0130"), "i\u0307") << "one character becomes two";
  EXPECT_EQ(lower("\u2126\u212a"), "\u03c9k") << "signs that look like letters";
  EXPECT_EQ(lower("\u4e2d\U0001f600"), "\u4e2d\U0001f600");
  EXPECT_EQ(lower(""), "");
}

TEST(PythonText, ASigmaAtTheEndOfAWordIsAnother) {
  EXPECT_EQ(lower("\u039f\u0394\u039f\u03a3"), "\u03bf\u03b4\u03bf\u03c2");
  EXPECT_EQ(lower("\u03a3"), "\u03c3") << "alone it ends nothing";
  EXPECT_EQ(lower("A\u03a3B"), "a\u03c3b");
  EXPECT_EQ(lower("A\u03a3 B"), "a\u03c2 b");
  EXPECT_EQ(lower("A\u03a3'B"), "a\u03c3'b") << "an apostrophe does not count";
  EXPECT_EQ(lower("A'\u03a3."), "a'\u03c2.");
  EXPECT_EQ(lower("1\u03a3"), "1\u03c3");
  EXPECT_EQ(lower("A\u03a3\u03a3"), "a\u03c3\u03c2");
}

TEST(PythonText, StripTakesWhatPythonCallsWhiteSpace) {
  EXPECT_EQ(strip(" \t\r\n\v\f\x1c\x1f a b\u0085\u00a0\u3000\u2028 "), "a b");
  EXPECT_EQ(strip("\u200b a"), "\u200b a") << "a space of no width is none";
  EXPECT_EQ(strip(" \u2003"), "");
  EXPECT_EQ(strip(""), "");
}

}  // namespace
}  // namespace trestle::models::text
