// The lease of a run directory. Text is tried as it is and again with the right digest, as a
// careful enemy would write it.
#include "base/digest.h"
#include "checkpoint/lease_record.h"
#include "tests/fuzz/fuzz.h"

#include <nlohmann/json.hpp>

using namespace trestle;

namespace {

constexpr auto kMaxBrackets = 1000;  // the JSON writer below recurses

std::string sealed(std::string_view text) {
  if (std::ranges::count(text, '[') + std::ranges::count(text, '{') > kMaxBrackets) return "";
  nlohmann::json stored = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!stored.is_object()) return "";
  stored.erase("digest");
  stored["digest"] = digest_128(stored.dump());
  return stored.dump(1);
}

void read(std::string_view text) {
  checkpoint::LeaseRecord record;
  if (!fuzz::accepted(ExitCode::environment,
                      [&] { record = checkpoint::parse_lease(text, "lease.json"); })) {
    return;
  }
  fuzz::demand(fuzz::is_plain(record.to_text()), "what is said of it has no control characters",
               record.to_text());
  const std::string written = checkpoint::to_text(record);
  checkpoint::LeaseRecord again;
  fuzz::demand(fuzz::accepted(ExitCode::environment,
                              [&] { again = checkpoint::parse_lease(written, "written.json"); }),
               "what was written is accepted", written);
  fuzz::demand(again == record, "what was written says the same again", written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view text = fuzz::text(bytes, size);
  read(text);
  if (const std::string with_digest = sealed(text); !with_digest.empty()) read(with_digest);
  return 0;
}
