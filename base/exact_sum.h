// A sum of doubles without rounding, so its order does not matter: parts that were added anywhere,
// in any grouping and on any rank, merge to the same bits. Norms and losses are summed with it,
// which makes them independent of buckets, shards and ranks.
//
//   ExactSum mine;
//   for (double partial : partials) mine.add(partial);
//   world.all_reduce(mine.words(), ReduceOp::sum);   // integers: exact in any order
//   double total = mine.value();                     // rounded once
//
// The value is a fixed-point number of 2176 bits in words that overlap, so that carries can wait
// (Kulisch's long accumulator; Neal, "Fast exact summation using small and large
// superaccumulators", arXiv:1505.05571). inf and nan are kept as such: nan, or inf of both signs,
// makes the sum nan. LOCAL. THREADS: one at a time.
#pragma once
#include <array>
#include <cstdint>
#include <span>

namespace trestle {

class ExactSum {
 public:
  /// At most 2^30 numbers over all parts that are merged.
  void add(double value);
  void add(const ExactSum& other);

  /// To be summed element by element over the parts.
  std::span<std::int64_t> words() { return words_; }
  std::span<const std::int64_t> words() const { return words_; }

  /// The double nearest to the sum (ties to even); inf beyond the largest.
  double value() const;

 private:
  // Word i counts units of 2^(32 i - 1088): below the smallest subnormal of 2^-1074, up to 2^1087.
  static constexpr int kFixedWords = 68;
  static constexpr int kLowestBit = -1088;
  // Behind them: how many +inf, -inf and nan were added.
  static constexpr int kPlusInf = kFixedWords, kMinusInf = kFixedWords + 1, kNan = kFixedWords + 2;
  std::array<std::int64_t, kFixedWords + 3> words_{};
};

}  // namespace trestle
