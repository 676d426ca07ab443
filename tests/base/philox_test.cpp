// Known answers of Philox4x32-10 as published with Random123 (Salmon et al., 2011).
#include "base/philox.h"

#include <gtest/gtest.h>

#include <cmath>

namespace trestle {
namespace {

void expect_words(PhiloxCounter counter, PhiloxKey key, std::array<std::uint32_t, 4> expected) {
  const PhiloxCounter words = philox4x32(counter, key);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(words.word[i], expected[i]) << "word " << i;
}

TEST(Philox, KnownAnswers) {
  expect_words({{0, 0, 0, 0}}, {{0, 0}}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect_words({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, {{0xffffffff, 0xffffffff}},
               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_words({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {{0xa4093822, 0x299f31d0}},
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Philox, UniformsAreExactMultiplesBelowOne) {
  EXPECT_EQ(uniform_from_bits(0), 0.0f);
  EXPECT_EQ(uniform_from_bits(0xffffffffu), 1.0f - 0x1p-24f);
  EXPECT_EQ(uniform_from_bits(0x80000000u), 0.5f);
}

TEST(Philox, NormalsAreFiniteAtTheEdges) {
  for (const std::uint32_t bits : {0u, 1u, 0x7fffffffu, 0xffffffffu}) {
    float a = 0, b = 0;
    normals_from_bits(bits, bits, &a, &b);
    EXPECT_TRUE(std::isfinite(a) && std::isfinite(b)) << bits;
  }
}

}  // namespace
}  // namespace trestle
