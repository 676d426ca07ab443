// The lease of a run directory. Text is tried as it is and again with the right digest, as a
// careful enemy would write it.
#include "checkpoint/lease_record.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sealed_json.h"

using namespace trestle;

namespace {

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
  if (const std::string with_digest = fuzz::sealed_json(text); !with_digest.empty())
    read(with_digest);
  return 0;
}
