#include "models/refusal.h"

#include "base/error.h"

namespace trestle::models {

void require_none(const std::vector<Refusal>& refusals, const std::string& source) {
  std::string text;
  for (const Refusal& refusal : refusals) {
    if (!text.empty()) text += "\n";
    text += source + ": " + refusal.message;
  }
  if (!text.empty()) throw Error(ExitCode::usage, text);
}

}  // namespace trestle::models
