// What a byte-pair tokenizer is made of, whichever file it came from.
// LOCAL. THREADS: any.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace trestle::formats {

/// A text that is cut out of prompts before anything else happens to them.
struct AddedToken {
  std::string content;
  std::int64_t id = -1;     ///< -1: the file does not say
  bool normalized = false;  ///< cut out only after spaces have become U+2581
  bool special = false;     ///< decoding may leave it out
};

struct BpeVocabulary {
  struct Merge {
    std::int32_t left, right, merged;  ///< ids
  };
  std::vector<std::string> pieces;  ///< by id; UTF-8, none is empty, each is there once
  std::vector<Merge> merges;        ///< the first is the first to be done
  std::vector<AddedToken> added;
};

}  // namespace trestle::formats
