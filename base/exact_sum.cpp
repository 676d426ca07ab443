#include "base/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace trestle {

void ExactSum::add(double value) {
  constexpr int kMantissaBits = 52;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const bool negative = bits >> 63;
  const int biased = static_cast<int>(bits >> kMantissaBits) & 0x7ff;
  std::uint64_t mantissa = bits & ((std::uint64_t{1} << kMantissaBits) - 1);
  if (biased == 0x7ff) {
    ++words_[mantissa != 0 ? kNan : negative ? kMinusInf : kPlusInf];
    return;
  }
  if (biased != 0) mantissa |= std::uint64_t{1} << kMantissaBits;
  // value = mantissa * 2^exponent; a subnormal has the exponent of the smallest normal.
  const int exponent = (biased == 0 ? 1 : biased) - 1075;
  const int position = exponent - kLowestBit;
  const int word = position / 32, shift = position % 32;
  // 53 bits shifted by up to 31 lie in three words of 32.
  const auto wide = static_cast<unsigned __int128>(mantissa) << shift;
  for (int i = 0; i < 3; ++i) {
    const auto part = static_cast<std::int64_t>(static_cast<std::uint32_t>(wide >> (32 * i)));
    words_[word + i] += negative ? -part : part;
  }
}

void ExactSum::add(const ExactSum& other) {
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] += other.words_[i];
}

double ExactSum::value() const {
  if (words_[kNan] != 0 || (words_[kPlusInf] != 0 && words_[kMinusInf] != 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (words_[kPlusInf] != 0) return std::numeric_limits<double>::infinity();
  if (words_[kMinusInf] != 0) return -std::numeric_limits<double>::infinity();

  // Carries: afterwards every word is in [0, 2^32), but for the sign in `carry`.
  std::array<std::uint32_t, kFixedWords + 2> digits{};
  const auto settle = [&](bool negate) {
    std::int64_t carry = 0;
    for (int i = 0; i < kFixedWords; ++i) {
      // A word is below 2^62 in size (2^30 numbers of 32 bits), so this cannot overflow.
      const std::int64_t sum = (negate ? -words_[i] : words_[i]) + carry;
      digits[i] = static_cast<std::uint32_t>(sum);
      carry = sum >> 32;
    }
    digits[kFixedWords] = static_cast<std::uint32_t>(carry);
    digits[kFixedWords + 1] = static_cast<std::uint32_t>(carry >> 32);
    return carry;
  };
  bool negative = false;
  if (settle(false) < 0) {
    negative = true;
    settle(true);
  }

  int top = kFixedWords + 1;
  while (top >= 0 && digits[top] == 0) --top;
  if (top < 0) return 0.0;
  // The leading 64 bits, and whether anything but zeros follows; then one rounding to 53 bits.
  const auto digit = [&](int i) { return i < 0 ? std::uint64_t{0} : std::uint64_t{digits[i]}; };
  const int leading_zeros = std::countl_zero(digits[top]);
  const auto three = (static_cast<unsigned __int128>(digit(top)) << 64) |
                     (static_cast<unsigned __int128>(digit(top - 1)) << 32) | digit(top - 2);
  const int drop = 32 - leading_zeros;  // of the 96 bits, so that 64 stay; 1 to 32
  auto mantissa = static_cast<std::uint64_t>(three >> drop);  // its highest bit is set
  bool rest = static_cast<std::uint32_t>(three & ((std::uint64_t{1} << drop) - 1)) != 0;
  for (int i = top - 3; i >= 0 && !rest; --i) rest = digits[i] != 0;
  if (rest) mantissa |= 1;
  const int exponent = kLowestBit + 32 * (top - 2) + drop;
  // To 53 bits, or fewer where the result is subnormal; every number added was a multiple of
  // 2^-1074, so there nothing is cut off but zeros.
  const int kept_exponent = std::max(exponent + 11, -1074);
  const int cut = kept_exponent - exponent;
  std::uint64_t kept = cut < 64 ? mantissa >> cut : 0;
  const std::uint64_t half = std::uint64_t{1} << (cut - 1);
  const bool above_half = (mantissa & (half - 1)) != 0;
  if ((mantissa & half) != 0 && (above_half || (kept & 1) != 0)) ++kept;
  const double result = std::ldexp(static_cast<double>(kept), kept_exponent);
  return negative ? -result : result;
}

}  // namespace trestle
