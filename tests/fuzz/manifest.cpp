// A checkpoint's manifest. Text is tried as it is and, because nobody guesses a digest, again in
// the canonical form with the right one: that is what a careful enemy would write.
#include "checkpoint/manifest.h"

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sealed_json.h"

using namespace trestle;

namespace {

/// Reads; what was accepted is the same again after writing and reading, field for field.
void read(std::string_view text) {
  checkpoint::Manifest manifest;
  if (!fuzz::accepted(ExitCode::checkpoint,
                      [&] { manifest = checkpoint::parse_manifest(text, "manifest.json"); })) {
    return;
  }
  const std::string written = checkpoint::to_text(manifest);
  std::string again;
  fuzz::demand(fuzz::accepted(ExitCode::checkpoint,
                              [&] {
                                again = checkpoint::to_text(
                                    checkpoint::parse_manifest(written, "written.json"));
                              }),
               "what was written is accepted", written);
  fuzz::demand(again == written, "what was written says the same again", written);
  fuzz::accepted(ExitCode::checkpoint,
                 [&] { checkpoint::require_whole(manifest, "manifest.json"); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view text = fuzz::text(bytes, size);
  read(text);
  if (const std::string sealed = fuzz::sealed_json(text); !sealed.empty()) read(sealed + "\n");
  return 0;
}
