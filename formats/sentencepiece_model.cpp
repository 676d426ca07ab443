#include "formats/sentencepiece_model.h"

#include "base/error.h"
#include "base/utf8.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <unordered_set>

namespace trestle::formats {
namespace {

/// Why the bytes were refused; parse_sentencepiece_model says which file it was.
class Problem : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr std::size_t kMaxPieceBytes = 1024;  // the trainer's own limit is far below

using Number = std::uint64_t;

// Fields by their numbers in sentencepiece_model.proto: of the model,
constexpr Number kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
// of a piece,
constexpr Number kPiece = 1, kType = 3;
// of the trainer's settings,
constexpr Number kModelType = 3, kWhitespaceAsSuffix = 24, kByteFallback = 35;
// and of the normalizer's.
constexpr Number kCharsmap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4,
                 kEscapeWhitespaces = 5;

// The values of kModelType.
constexpr Number kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4;

/// One field of a message: a number, or bytes.
struct Field {
  std::uint64_t number = 0;
  std::optional<std::uint64_t> value = {};     ///< wire type 0
  std::optional<std::string_view> bytes = {};  ///< wire type 2
};

/// The fields of a message, in the order in which they were written.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  bool done() const { return rest_.empty(); }

  Field next() {
    const std::uint64_t tag = varint();
    Field field{.number = tag >> 3};
    if (field.number == 0) throw Problem("a field has the number 0");
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        throw Problem("a field has a wire type that is not in use");
    }
    return field;
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) throw Problem("a field is longer than what is left");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    throw Problem("a number is longer than 64 bits");
  }

  std::string_view rest_;
};

std::uint64_t value_of(const Field& field) {
  if (!field.value) throw Problem("a field that is a number holds something else");
  return *field.value;
}

std::string_view bytes_of(const Field& field) {
  if (!field.bytes) throw Problem("a field that is a text or a message holds something else");
  return *field.bytes;
}

SentencePiece read_piece(std::string_view message, std::size_t id) {
  SentencePiece piece;
  for (Fields fields(message); !fields.done();) {
    const Field field = fields.next();
    if (field.number == kPiece) {
      piece.text = bytes_of(field);
    } else if (field.number == kType) {
      const std::uint64_t kind = value_of(field);
      if (kind < std::uint64_t(PieceKind::normal) || kind > std::uint64_t(PieceKind::byte)) {
        throw Problem(fmt::format("piece {} is of a kind that does not exist ({})", id, kind));
      }
      piece.kind = static_cast<PieceKind>(kind);
    }
  }
  if (piece.text.empty()) throw Problem(fmt::format("piece {} is empty", id));
  if (piece.text.size() > kMaxPieceBytes) {
    throw Problem(fmt::format("piece {} has {} bytes, and {} are the most", id, piece.text.size(),
                              kMaxPieceBytes));
  }
  if (valid_utf8_bytes(piece.text) != piece.text.size()) {
    throw Problem(fmt::format("piece {} is not UTF-8", id));
  }
  return piece;
}

/// What of the two settings messages decides how a text is cut; as the format's defaults have it.
struct Settings {
  std::uint64_t model_type = kUnigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  bool charsmap = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

void read_trainer(std::string_view message, Settings& into) {
  for (Fields fields(message); !fields.done();) {
    const Field field = fields.next();
    if (field.number == kModelType) into.model_type = value_of(field);
    if (field.number == kByteFallback) into.byte_fallback = value_of(field) != 0;
    if (field.number == kWhitespaceAsSuffix) into.whitespace_as_suffix = value_of(field) != 0;
  }
}

void read_normalizer(std::string_view message, Settings& into) {
  for (Fields fields(message); !fields.done();) {
    const Field field = fields.next();
    if (field.number == kCharsmap) into.charsmap = !bytes_of(field).empty();
    if (field.number == kAddDummyPrefix) into.add_dummy_prefix = value_of(field) != 0;
    if (field.number == kRemoveExtraWhitespaces) {
      into.remove_extra_whitespaces = value_of(field) != 0;
    }
    if (field.number == kEscapeWhitespaces) into.escape_whitespaces = value_of(field) != 0;
  }
}

const char* name_of_type(std::uint64_t type) {
  switch (type) {
    case kUnigram:
      return "a unigram model";
    case kWord:
      return "a model of words";
    case kChar:
      return "a model of characters";
    default:
      return "of a type that does not exist";
  }
}

void require_gemma(const Settings& settings) {
  if (settings.model_type != kBpe) {
    throw Problem(
        fmt::format("it is {}, not byte-pair encoding", name_of_type(settings.model_type)));
  }
  if (!settings.byte_fallback) throw Problem("its byte_fallback is off");
  if (settings.whitespace_as_suffix) throw Problem("its treat_whitespace_as_suffix is on");
  if (settings.charsmap) throw Problem("it normalizes characters by a table");
  if (settings.add_dummy_prefix) throw Problem("its add_dummy_prefix is on");
  if (settings.remove_extra_whitespaces) throw Problem("its remove_extra_whitespaces is on");
  if (!settings.escape_whitespaces) throw Problem("its escape_whitespaces is off");
}

std::vector<SentencePiece> parse(std::string_view bytes) {
  std::vector<SentencePiece> pieces;
  Settings settings;
  for (Fields fields(bytes); !fields.done();) {
    const Field field = fields.next();
    if (field.number == kPieces) pieces.push_back(read_piece(bytes_of(field), pieces.size()));
    if (field.number == kTrainerSpec) read_trainer(bytes_of(field), settings);
    if (field.number == kNormalizerSpec) read_normalizer(bytes_of(field), settings);
  }
  if (pieces.empty()) throw Problem("it has no pieces");
  require_gemma(settings);
  std::unordered_set<std::string_view> seen;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (!seen.insert(pieces[id].text).second) {
      throw Problem(fmt::format("piece {} is there twice", id));
    }
  }
  return pieces;
}

}  // namespace

std::vector<SentencePiece> parse_sentencepiece_model(std::string_view bytes,
                                                     std::string_view name) {
  try {
    return parse(bytes);
  } catch (const Problem& problem) {
    fail(ExitCode::data,
         "{} is no tokenizer that can be used ({}). Take the tokenizer.model of a Gemma model.",
         name, problem.what());
  }
}

}  // namespace trestle::formats
