// The byte-pair vocabulary that transformers makes of a tokenizer.model, and uses in its place.
// LOCAL. THREADS: any.
#pragma once
#include "formats/bpe_vocabulary.h"
#include "formats/sentencepiece_model.h"

#include <vector>

namespace trestle::models::text {

/// The file has no merges: every way to cut a piece into two pieces is one, in the order of the
/// ids of what they make, and for one piece with the shorter left side first. Control pieces and
/// user-defined ones become added tokens.
formats::BpeVocabulary vocabulary_of(std::vector<formats::SentencePiece> pieces);

}  // namespace trestle::models::text
