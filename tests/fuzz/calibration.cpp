// A calibration. What was accepted is the same again after writing and reading, and every time that
// it predicts is a number that is not negative.
#include "formats/calibration.h"

#include "tests/fuzz/fuzz.h"

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  formats::Calibration calibration;
  if (!fuzz::accepted(ExitCode::data, [&] {
        calibration = formats::parse_calibration(fuzz::text(bytes, size), "calibration.json");
      })) {
    return 0;
  }
  for (const auto& [name, operation] : calibration.operations)
    fuzz::demand(operation.seconds(1e6) >= 0, "a collective takes time", name);
  const std::string written = formats::to_text(calibration);
  std::string again;
  fuzz::demand(
      fuzz::accepted(
          ExitCode::data,
          [&] { again = formats::to_text(formats::parse_calibration(written, "written.json")); }),
      "what was written is accepted", written);
  fuzz::demand(again == written, "what was written says the same again", written);
  return 0;
}
