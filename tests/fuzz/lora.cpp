// A LoRA file's header, and each line of it as a tensor's name. What was accepted is the same again
// after writing and reading; a name that was accepted names a layer.
#include "formats/lora_metadata.h"
#include "formats/lora_names.h"
#include "tests/fuzz/fuzz.h"

#include <string>

using namespace trestle;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::string_view rest = fuzz::text(bytes, size);
  while (!rest.empty()) {
    const auto end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    const formats::LoraName name = formats::parse_lora_name(line);
    fuzz::demand(!name.refusal.empty() || !name.layer.empty(), "a tensor belongs to a layer", line);
    if (name.refusal.empty()) {
      const auto again = formats::parse_lora_name("transformer." + name.layer +
                                                  std::string(formats::lora_suffix(name.part)));
      fuzz::demand(again.refusal.empty() && again.part == name.part, "what is written is read",
                   line);
    }
    rest = end == rest.npos ? std::string_view() : rest.substr(end + 1);
  }

  formats::LoraMetadata metadata;
  if (!fuzz::accepted(ExitCode::data, [&] {
        metadata = formats::parse_lora_metadata(fuzz::text(bytes, size), "lora.safetensors");
      })) {
    return 0;
  }
  fuzz::demand(metadata.alpha_of("a") > 0 && metadata.rank_of("a") > 0, "a layer has a scale");
  const std::string written = formats::to_text(metadata);
  std::string again;
  fuzz::demand(fuzz::accepted(ExitCode::data,
                              [&] {
                                again = formats::to_text(
                                    formats::parse_lora_metadata(written, "written.safetensors"));
                              }),
               "what was written is accepted", written);
  fuzz::demand(again == written, "what was written says the same again", written);
  return 0;
}
