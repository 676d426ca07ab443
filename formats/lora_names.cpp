#include "formats/lora_names.h"

#include <array>
#include <utility>

namespace trestle::formats {
namespace {

struct Marker {
  std::string_view text;
  LoraPart part;
};

constexpr std::array<Marker, 4> kMatrices = {{{".lora_A.", LoraPart::a},
                                              {".lora_B.", LoraPart::b},
                                              {".lora.down.", LoraPart::a},
                                              {".lora.up.", LoraPart::b}}};
constexpr std::string_view kMagnitude = ".lora_magnitude_vector";

/// "weight" or "ADAPTER.weight"; names of adapters have no dots.
bool is_leaf(std::string_view tail, std::string_view leaf) {
  if (tail == leaf) return true;
  if (tail.size() <= leaf.size() + 1 || !tail.ends_with(leaf)) return false;
  const std::string_view adapter = tail.substr(0, tail.size() - leaf.size());
  return adapter.find('.') == adapter.size() - 1 && adapter.size() > 1;
}

bool is_magnitude(std::string_view tail) {
  if (tail.empty() || tail == ".weight") return true;
  if (!tail.starts_with(".")) return false;
  tail.remove_prefix(1);
  return is_leaf(tail, "weight") || (!tail.empty() && tail.find('.') == tail.npos);
}

LoraName refused(std::string_view layer, std::string_view why) {
  return {.layer = std::string(layer), .refusal = std::string(why)};
}

}  // namespace

LoraName parse_lora_name(std::string_view name) {
  std::string_view rest = name;
  for (const std::string_view prefix : {"base_model.model.", "transformer."}) {
    if (rest.starts_with(prefix)) rest.remove_prefix(prefix.size());
  }
  // The last marker counts, whatever the layer is called.
  Marker last{};
  std::size_t at = 0;
  for (const Marker& marker : kMatrices) {
    const auto found = rest.rfind(marker.text);
    if (found == rest.npos || found <= at) continue;
    at = found;
    last = marker;
  }
  if (at > 0) {
    const std::string_view layer = rest.substr(0, at), tail = rest.substr(at + last.text.size());
    if (is_leaf(tail, "weight")) return {.layer = std::string(layer), .part = last.part};
    if (is_leaf(tail, "bias")) {
      return refused(layer, "a bias of an adapter (lora_bias) is not supported");
    }
  }
  if (const auto found = rest.rfind(kMagnitude); found != rest.npos && found != 0) {
    if (is_magnitude(rest.substr(found + kMagnitude.size())))
      return {.layer = std::string(rest.substr(0, found)), .part = LoraPart::magnitude};
  }
  if (name.find("dora_scale") != name.npos) {
    return refused("",
                   "dora_scale is another program's DoRA, whose norm may go along another axis; "
                   "diffusers drops it and gives wrong pictures. Save the adapter with "
                   "lora_magnitude_vector instead");
  }
  if (name.ends_with(".alpha")) {
    return refused("",
                   "a scale as a tensor is not read; alpha stands in the header's "
                   "lora_adapter_metadata");
  }
  return refused("", "no tensor of a LoRA has such a name");
}

bool names_layer(std::string_view entry, std::string_view layer) {
  return layer == entry || (layer.size() > entry.size() && layer.ends_with(entry) &&
                            layer[layer.size() - entry.size() - 1] == '.');
}

std::string_view lora_suffix(LoraPart part) {
  switch (part) {
    case LoraPart::a:
      return ".lora_A.weight";
    case LoraPart::b:
      return ".lora_B.weight";
    case LoraPart::magnitude:
      break;
  }
  return ".lora_magnitude_vector";  // without ".weight", which diffusers would not recognise
}

}  // namespace trestle::formats
