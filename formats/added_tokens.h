// One added token, as tokenizer.json and tokenizer_config.json both write it. Heavy to include; for
// .cpp files of this room only.
//
// LOCAL. THREADS: any.
#pragma once
#include "formats/bpe_vocabulary.h"
#include "formats/strict_json.h"

namespace trestle::formats {

/// Of {"content": ..., "single_word": ..., ...}; JsonProblem where it asks for what is not done
/// here (single words, stripping beside it).
AddedToken read_added_token(const nlohmann::json& stored);

}  // namespace trestle::formats
