// The list of a run's epochs. Text is tried as it is and again with the right digest, as a careful
// enemy would write it.
#include "checkpoint/epochs.h"

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sealed_json.h"

using namespace trestle;

namespace {

void read(std::string_view text) {
  checkpoint::Epochs epochs;
  if (!fuzz::accepted(ExitCode::checkpoint,
                      [&] { epochs = checkpoint::parse_epochs(text, "epochs.json"); })) {
    return;
  }
  fuzz::demand(!epochs.superseded(epochs.last(), 1 << 20), "the last epoch is never superseded");
  const std::string written = checkpoint::to_text(epochs.starts());
  checkpoint::Epochs again;
  fuzz::demand(fuzz::accepted(ExitCode::checkpoint,
                              [&] { again = checkpoint::parse_epochs(written, "written.json"); }),
               "what was written is accepted", written);
  fuzz::demand(again.starts() == epochs.starts(), "what was written says the same again", written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view text = fuzz::text(bytes, size);
  read(text);
  if (const std::string with_digest = fuzz::sealed_json(text); !with_digest.empty())
    read(with_digest);
  return 0;
}
