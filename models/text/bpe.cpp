#include "models/text/bpe.h"

#include "base/error.h"
#include "base/utf8.h"

#include <queue>
#include <string>
#include <tuple>

namespace trestle::models::text {
namespace {

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char digit : piece.substr(3, 2)) {
    const bool is_number = digit >= '0' && digit <= '9';
    if (!is_number && (digit < 'A' || digit > 'F')) return -1;
    value = 16 * value + (is_number ? digit - '0' : digit - 'A' + 10);
  }
  return value;
}

/// A piece of the text while it is being joined: the list of those that are left is linked.
struct Bpe::Symbol {
  std::int32_t piece;  ///< -1: it has become a part of the one before
  std::int32_t previous, next;
};

/// Pairs that may be joined, best first. Entries get stale when a neighbour is joined away first.
class Bpe::Heap {
 public:
  struct Pair {
    Joined joined;
    std::int32_t left;  ///< position
    bool operator<(const Pair& other) const {
      return std::tie(joined.rank, left) > std::tie(other.joined.rank, other.left);
    }
  };
  Heap(const Bpe& bpe, const std::vector<Symbol>& symbols) : bpe_(bpe), symbols_(symbols) {}

  /// Adds the symbol at `left` with the one behind it, if they can be joined.
  void add(std::int32_t left) {
    if (left < 0 || symbols_[left].next < 0) return;
    const Joined* joined = bpe_.find(symbols_[left].piece, symbols_[symbols_[left].next].piece);
    if (joined != nullptr) pairs_.push({*joined, left});
  }
  /// The best that still is what it was when it was added.
  bool take(Pair& best) {
    while (!pairs_.empty()) {
      best = pairs_.top();
      pairs_.pop();
      const Symbol& left = symbols_[best.left];
      if (left.piece < 0 || left.next < 0) continue;
      const Joined* now = bpe_.find(left.piece, symbols_[left.next].piece);
      if (now != nullptr && now->piece == best.joined.piece) return true;
    }
    return false;
  }

 private:
  const Bpe& bpe_;
  const std::vector<Symbol>& symbols_;
  std::priority_queue<Pair> pairs_;
};

Bpe::Bpe(const formats::BpeVocabulary& vocabulary, std::string_view name) {
  bytes_.fill(-1);
  ascii_.fill(-1);
  for (std::size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const std::string& piece = vocabulary.pieces[id];
    const auto id_32 = static_cast<std::int32_t>(id);
    if (const int byte = byte_of_piece(piece); byte >= 0) bytes_[byte] = id_32;
    const Character first = character_at(piece, 0);
    if (first.bytes != piece.size()) continue;
    if (first.code < ascii_.size()) {
      ascii_[first.code] = id_32;
    } else {
      characters_[first.code] = id_32;
    }
  }
  for (std::size_t byte = 0; byte < bytes_.size(); ++byte) {
    const bool is_character = byte < ascii_.size() && ascii_[byte] >= 0;
    TRESTLE_REQUIRE_AS(data, is_character || bytes_[byte] >= 0,
                       "{} is no tokenizer that can be used (no piece stands for the byte "
                       "0x{:02X}: <0x{:02X}> is missing). Take the tokenizer of a Gemma model.",
                       name, byte, byte);
  }
  merges_.reserve(vocabulary.merges.size());
  std::int32_t rank = 0;
  for (const auto& merge : vocabulary.merges) {
    merges_[key_of(merge.left, merge.right)] = {rank++, merge.merged};
  }
}

const Bpe::Joined* Bpe::find(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(key_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<Bpe::Symbol> Bpe::characters(std::string_view text) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  const auto add = [&](std::int32_t piece) {
    const auto here = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({piece, here - 1, here + 1});
  };
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    TRESTLE_ASSERT(c.bytes > 0, "a text that is not UTF-8 came to Bpe::encode");
    std::int32_t piece = -1;
    if (c.code < ascii_.size()) {
      piece = ascii_[c.code];
    } else if (const auto found = characters_.find(c.code); found != characters_.end()) {
      piece = found->second;
    }
    if (piece >= 0) {
      add(piece);
    } else {
      for (const char byte : text.substr(at, c.bytes))
        add(bytes_[static_cast<unsigned char>(byte)]);
    }
    at += c.bytes;
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

void Bpe::encode(std::string_view text, std::vector<std::int64_t>& ids) const {
  std::vector<Symbol> symbols = characters(text);
  Heap heap(*this, symbols);
  for (std::size_t left = 0; left < symbols.size(); ++left) {
    heap.add(static_cast<std::int32_t>(left));
  }
  for (Heap::Pair best = {}; heap.take(best);) {
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[left.next];
    left.piece = best.joined.piece;
    right.piece = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.left;
    heap.add(left.previous);
    heap.add(best.left);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.piece >= 0) ids.push_back(symbol.piece);
  }
}

}  // namespace trestle::models::text
