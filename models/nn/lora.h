// LoRA adapters of a model: added by name, active where a call says so, merged and taken out again.
//
//   const nn::LoraConfig config{.rank = 16, .targets = {"to_q", "to_k", "to_v"}};
//   const auto trained = nn::add_adapter(parameters, "style", config, Draws(seed));
//   const nn::AdapterSet set = nn::activate(parameters, {{"style"}});
//   model({.latents_bchw = x, ..., .adapters = &set});
//
// Names, rules and arithmetic are those of peft 0.21.2. Adapters lie in fp32 over a 16-bit base
// (unless asked for otherwise), in the base's dtype over a wider one.
// LOCAL. THREADS: nothing here may run beside a call of the model, except adapter_parameters().
// ERRORS: Error(usage) naming the key of the recipe's section [lora].
#pragma once
#include "base/torch/draws.h"
#include "configs/describe.h"
#include "models/nn/parameters.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::nn {

struct LoraConfig {
  std::int64_t rank = 4;
  std::optional<double> alpha = {};  ///< none: as the rank
  bool use_rslora = false;           ///< scale alpha / sqrt(rank) instead of alpha / rank
  double dropout = 0;                ///< on what the adapter reads
  std::string init = "gaussian";     ///< of A; B starts at zero
  bool use_dora = false;
  std::vector<std::string> targets = {"to_q", "to_k", "to_v"};
  std::string dtype = "float32";  ///< "base": the base's also where that has 16 bits
  /// Of layers whose alpha is another; files have such, recipes do not.
  std::map<std::string, double> alphas = {};

  double alpha_of(const std::string& layer, std::int64_t layer_rank) const;

  /// `needs`: beside which option of the section these count.
  void describe(configs::Fields& fields, const configs::Needs& needs = {});
};

/// The layers that `targets` name: each whose name equals an entry or ends with "." and the entry.
/// An entry that names no layer is an error with the nearest that would, and so is one that names a
/// layer which can have no adapter.
std::vector<AdapterSlot> targeted_layers(const Parameters& model,
                                         const std::vector<std::string>& targets);

/// Adds an adapter that changes nothing yet, freezes the model's own parameters, and returns the
/// adapter's, in forward order under peft's names ("...to_q.lora_A.weight"). What is drawn belongs
/// to the adapter's name and the layer's. DoRA's magnitudes are the norms of the weights as they
/// are now: the base must have its values before.
std::vector<NamedParameter> add_adapter(Parameters& model, const std::string& name,
                                        const LoraConfig& config, const Draws& draws);

/// The shapes that an adapter's tensors have for a layer.
struct LoraShapes {
  std::vector<std::int64_t> a, b, magnitude;
};
LoraShapes lora_shapes(const LayerAdapters& layer, std::int64_t rank);

/// One layer's tensors of an adapter from elsewhere, in the shapes of LoraShapes; the magnitude is
/// undefined where it is no DoRA.
struct LoraTensors {
  AdapterSlot layer;
  at::Tensor a, b, magnitude;
};

/// The same with values given, brought to the adapter's dtype and the model's device; each layer's
/// rank is its tensors'.
std::vector<NamedParameter> add_adapter(Parameters& model, const std::string& name,
                                        const LoraConfig& config,
                                        const std::vector<LoraTensors>& tensors);

/// The parameters that add_adapter() returned.
std::vector<NamedParameter> adapter_parameters(const Parameters& model, std::string_view name);

/// These adapters, in this order; a name that the model lacks is an error with the nearest.
AdapterSet activate(const Parameters& model, std::vector<ActiveAdapter> adapters);

/// Puts the adapters into the weights: computed in fp32 (or wider), rounded once to the weights'
/// dtype. Keeps a copy of each weight that changes.
void merge(Parameters& model, const AdapterSet& set);

/// Gives back, bit for bit, the weights from before merge().
void unmerge(Parameters& model);

}  // namespace trestle::models::nn
