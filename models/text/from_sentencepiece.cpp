#include "models/text/from_sentencepiece.h"

#include "base/utf8.h"

#include <string_view>
#include <unordered_map>
#include <utility>

namespace trestle::models::text {

using formats::BpeVocabulary;
using formats::PieceKind;

BpeVocabulary vocabulary_of(std::vector<formats::SentencePiece> pieces) {
  BpeVocabulary vocabulary;
  for (formats::SentencePiece& piece : pieces) {
    if (piece.kind == PieceKind::control || piece.kind == PieceKind::user_defined) {
      vocabulary.added.push_back({.content = piece.text,
                                  .id = static_cast<std::int64_t>(vocabulary.pieces.size()),
                                  .special = piece.kind == PieceKind::control});
    }
    vocabulary.pieces.push_back(std::move(piece.text));
  }
  std::unordered_map<std::string_view, std::int32_t> ids(vocabulary.pieces.size());
  for (std::size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    ids.emplace(vocabulary.pieces[id], static_cast<std::int32_t>(id));
  }
  for (const std::string& piece : vocabulary.pieces) {
    const std::string_view text = piece;
    for (std::size_t cut = character_at(text, 0).bytes; cut < text.size();
         cut += character_at(text, cut).bytes) {
      const auto left = ids.find(text.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(text.substr(cut));
      if (right == ids.end()) continue;
      vocabulary.merges.push_back({left->second, right->second, ids.find(text)->second});
    }
  }
  return vocabulary;
}

}  // namespace trestle::models::text
