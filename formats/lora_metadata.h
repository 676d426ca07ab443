// What the header of a LoRA file says in "lora_adapter_metadata": the fields of peft's LoraConfig
// that decide what the tensors mean, as diffusers 0.42 reads and writes them.
//
//   {"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.target_modules": ["to_q"], ...}
//
// The prefix is there in files of pipelines and absent in files of a lone model. Written is the
// least that diffusers needs, since it passes every field to its own version of peft. Read is
// everything: a field that would change the result and is not supported is refused by name.
// LOCAL. THREADS: any. ERRORS: ExitCode::data, naming the file.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

/// The header's key.
inline constexpr std::string_view kLoraMetadataKey = "lora_adapter_metadata";

struct LoraMetadata {
  std::int64_t rank = 1;
  double alpha = 1;
  bool use_rslora = false;
  bool use_dora = false;
  double dropout = 0;
  bool gaussian = false;                           ///< how A began; else as PyTorch's Linear
  std::vector<std::string> targets = {};           ///< empty where the file has a pattern
  std::map<std::string, std::int64_t> ranks = {};  ///< of layers with another rank, by name or end
  std::map<std::string, double> alphas = {};       ///< likewise

  std::int64_t rank_of(std::string_view layer) const;
  double alpha_of(std::string_view layer) const;
};

LoraMetadata parse_lora_metadata(std::string_view text, std::string_view file);

/// With the prefix "transformer.", laid out as Python's json.dumps(..., indent=2, sort_keys=True).
std::string to_text(const LoraMetadata& metadata);

}  // namespace trestle::formats
