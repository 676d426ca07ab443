// Names of the tensors in LoRA files of a transformer, as they are met: peft's and diffusers' own,
// in one file also mixed.
//
//   [base_model.model.][transformer.]LAYER.lora_A[.ADAPTER].weight      A
//   [base_model.model.][transformer.]LAYER.lora_B[.ADAPTER].weight      B
//   ...LAYER.lora.down.weight, ...LAYER.lora.up.weight                  A, B
//   ...LAYER.lora_magnitude_vector[.ADAPTER][.weight]                   DoRA's magnitudes
//
// LOCAL. THREADS: any.
#pragma once
#include <string>
#include <string_view>

namespace trestle::formats {

enum class LoraPart { a, b, magnitude };

struct LoraName {
  std::string layer;  ///< "transformer_blocks.0.attn1.to_q"
  LoraPart part = LoraPart::a;
  std::string refusal = {};  ///< why such a tensor cannot be used; empty: it can
};

LoraName parse_lora_name(std::string_view name);

/// diffusers' rule for targets and patterns: a layer is named by its name or by its end after a
/// dot.
bool names_layer(std::string_view entry, std::string_view layer);

/// The part of a parameter name that says so: ".lora_A.weight". The one way to write them.
std::string_view lora_suffix(LoraPart part);

}  // namespace trestle::formats
