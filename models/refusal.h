// What a model's configuration may not say, gathered so that all of it is said at once.
//
//   std::vector<Refusal> found;  ... found.push_back({"qk_norm", "qk_norm = ..."}); ...
//   require_supported(config, "transformer/config.json");   // of any family: asks its refusals()
//
// LOCAL. THREADS: any.
#pragma once
#include <string>
#include <vector>

namespace trestle::models {

struct Refusal {
  std::string field;
  std::string message;
};

/// Throws Error(usage) with all of them; `source` names the file that they are of.
void require_none(const std::vector<Refusal>& refusals, const std::string& source);

template <class Config>
void require_supported(const Config& config, const std::string& source) {
  require_none(config.refusals(), source);
}

}  // namespace trestle::models
