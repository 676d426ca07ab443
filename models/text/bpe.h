// Byte-pair encoding: characters (or, of those that are no piece, their UTF-8 bytes) are joined two
// by two, always the pair whose merge stands first in the list and of equal ones the leftmost.
//
// A heap of the pairs makes that n log n in the length of the text, which nothing splits first.
// LOCAL. THREADS: any.
#pragma once
#include "formats/bpe_vocabulary.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace trestle::models::text {

/// The byte that a piece like "<0x0A>" stands for; -1: it is another piece.
int byte_of_piece(std::string_view piece);

class Bpe {
 public:
  /// Error(data), naming the tokenizer by `name`, where a byte has no piece to stand for it.
  Bpe(const formats::BpeVocabulary& vocabulary, std::string_view name);

  /// Appends the ids of a text that is UTF-8 and shorter than 2^31 bytes.
  void encode(std::string_view text, std::vector<std::int64_t>& ids) const;

 private:
  struct Joined {
    std::int32_t rank, piece;
  };
  struct Symbol;
  class Heap;

  const Joined* find(std::int32_t left, std::int32_t right) const;
  std::vector<Symbol> characters(std::string_view text) const;

  std::array<std::int32_t, 256> bytes_{};                  // byte -> piece
  std::array<std::int32_t, 128> ascii_{};                  // character -> piece, -1: none
  std::unordered_map<char32_t, std::int32_t> characters_;  // the others that are pieces
  std::unordered_map<std::uint64_t, Joined> merges_;       // left piece, right piece
};

}  // namespace trestle::models::text
