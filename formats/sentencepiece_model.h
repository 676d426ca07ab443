// tokenizer.model, the file of the SentencePiece library: the pieces of a byte-pair model that
// treats spaces as Gemma's does (none added, none removed, no other normalization, bytes to fall
// back on). Any other model is refused by name.
//
// The file is a protocol buffer message (ModelProto); its wire format is read here and not by
// libsentencepiece, which shares the name of a variable with libtorch (FLAGS_minloglevel, of
// another size: in one process they write over each other).
//
// LOCAL. THREADS: any.
// Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

enum class PieceKind { normal = 1, unknown, control, user_defined, unused, byte };

struct SentencePiece {
  std::string text;  ///< UTF-8, not empty, each is there once
  PieceKind kind = PieceKind::normal;
};

/// By id. Errors: ExitCode::data, naming the file by `name`.
std::vector<SentencePiece> parse_sentencepiece_model(std::string_view bytes, std::string_view name);

}  // namespace trestle::formats
