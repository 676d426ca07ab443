#include "models/nn/lora.h"

#include "base/error.h"
#include "configs/nearest.h"
#include "formats/lora_names.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace trestle::models::nn {
namespace {

/// Every entry that would name a layer which can have an adapter.
std::vector<std::string> possible_entries(const Parameters& model) {
  std::set<std::string> entries;
  for (const AdapterSlot& slot : model.layers()) {
    if (!slot->refusal.empty()) continue;
    std::string_view rest = slot->layer;
    for (;;) {
      entries.emplace(rest);
      const auto dot = rest.find('.');
      if (dot == std::string_view::npos) break;
      rest.remove_prefix(dot + 1);
    }
  }
  return {entries.begin(), entries.end()};
}

at::TensorOptions adapter_options(const LayerAdapters& layer, const LoraConfig& config) {
  const auto base = layer.weight.scalar_type();
  return layer.weight.options().requires_grad(false).dtype(
      config.dtype == "base" ? base : at::promote_types(base, at::kFloat));
}

/// The norms of the rows of W.
at::Tensor magnitudes_of(const LayerAdapters& layer, const at::TensorOptions& options) {
  const at::NoGradGuard no_grad;
  const at::Tensor norms = layer.weight.to(options).flatten(1).norm(2, 1);
  return norms.view(lora_shapes(layer, 1).magnitude).detach();
}

void require_new(const Parameters& model, const std::string& name) {
  for (const AdapterSlot& slot : model.layers()) {
    TRESTLE_ASSERT(slot->find(name) == nullptr, "adapter \"{}\" added twice", name);
    TRESTLE_ASSERT(slot->merged.empty(), "adapter \"{}\" added to merged weights", name);
  }
}

void freeze(const Parameters& model) {
  for (const NamedParameter& parameter : model.all()) parameter.tensor.requires_grad_(false);
}

LayerAdapter layer_adapter(const std::string& name, const LayerAdapters& layer,
                           const LoraConfig& config, std::int64_t rank) {
  const double ranks = config.use_rslora ? std::sqrt(double(rank)) : double(rank);
  return {.name = name,
          .a = {},
          .b = {},
          .magnitude = {},
          .scale = config.alpha_of(layer.layer, rank) / ranks,
          .dropout = config.dropout,
          .dropout_purpose = Purpose(layer.layer + ".lora_dropout." + name)};
}

std::vector<std::string> adapter_names(const Parameters& model) {
  std::vector<std::string> names;
  for (const AdapterSlot& slot : model.layers()) {
    for (const LayerAdapter& adapter : slot->adapters) {
      if (std::ranges::count(names, adapter.name) == 0) names.push_back(adapter.name);
    }
  }
  return names;
}

}  // namespace

void LoraConfig::describe(configs::Fields& f, const configs::Needs& needs) {
  f.field("rank", rank,
          {.help = "rows of A, columns of B", .min = 1, .max = 65536, .needs = needs});
  f.field("alpha", alpha,
          {.help = "what the adapters add is multiplied with alpha / rank; none: alpha is the rank",
           .above = 0,
           .needs = needs});
  f.field("use_rslora", use_rslora,
          {.help = "scale alpha / sqrt(rank) instead of alpha / rank", .needs = needs});
  f.field("dropout", dropout,
          {.help = "dropout of what the adapters read", .min = 0, .max = 0.99, .needs = needs});
  f.field(
      "init", init,
      {.help = "A at the start: gaussian (deviation 1 / rank) or kaiming (uniform, as PyTorch's "
               "Linear); B is zero",
       .choices = {"gaussian", "kaiming"},
       .needs = needs});
  f.field("use_dora", use_dora,
          {.help = "learn the magnitude of each output channel apart (DoRA)", .needs = needs});
  f.field("targets", targets,
          {.help = "layers with an adapter: their names or the ends of them after a dot",
           .needs = needs});
  f.field("dtype", dtype,
          {.help = "of adapters over a 16-bit base: float32, or base for the base's; over a wider "
                   "base they have its dtype",
           .choices = {"float32", "base"},
           .needs = needs});
}

double LoraConfig::alpha_of(const std::string& layer, std::int64_t layer_rank) const {
  const auto own = alphas.find(layer);
  return own != alphas.end() ? own->second : alpha.value_or(double(layer_rank));
}

LoraShapes lora_shapes(const LayerAdapters& layer, std::int64_t rank) {
  const std::vector<std::int64_t> weight = layer.weight.sizes().vec();
  LoraShapes shapes{
      .a = weight, .b = std::vector<std::int64_t>(weight.size(), 1), .magnitude = {weight[0]}};
  shapes.a[0] = rank;
  shapes.b[0] = weight[0];
  shapes.b[1] = rank;
  if (weight.size() > 2) {  // a convolution's is laid out along the channels of its result
    shapes.magnitude.assign(weight.size(), 1);
    shapes.magnitude[1] = weight[0];
  }
  return shapes;
}

std::vector<AdapterSlot> targeted_layers(const Parameters& model,
                                         const std::vector<std::string>& targets) {
  TRESTLE_REQUIRE(!targets.empty(),
                  "lora.targets is empty (no layer would have an adapter). Name layers, such as "
                  "\"to_q\".");
  std::string problems;
  const auto add_problem = [&](const std::string& text) {
    problems += (problems.empty() ? "" : "\n") + text;
  };
  for (const std::string& entry : targets) {
    const auto named = std::ranges::find_if(model.layers(), [&](const AdapterSlot& slot) {
      return formats::names_layer(entry, slot->layer);
    });
    if (named == model.layers().end()) {
      const std::string near = configs::nearest(entry, possible_entries(model));
      add_problem(fmt::format(
          "lora.targets has \"{}\", but no layer's name is that or ends with \".{}\" (a target "
          "that "
          "matches nothing would train nothing). {}.",
          entry, entry, near.empty() ? "Remove it" : fmt::format("Did you mean \"{}\"?", near)));
    }
  }
  std::vector<AdapterSlot> layers;
  for (const AdapterSlot& slot : model.layers()) {
    const auto entry = std::ranges::find_if(targets, [&](const std::string& target) {
      return formats::names_layer(target, slot->layer);
    });
    if (entry == targets.end()) continue;
    if (slot->refusal.empty()) {
      layers.push_back(slot);
    } else {
      add_problem(fmt::format("lora.targets has \"{}\", which is {} ({}). Remove it.", *entry,
                              slot->layer, slot->refusal));
      break;  // the other blocks' layers of this kind would say the same
    }
  }
  if (!problems.empty()) throw Error(ExitCode::usage, problems);
  return layers;
}

std::vector<NamedParameter> add_adapter(Parameters& model, const std::string& name,
                                        const LoraConfig& config, const Draws& draws) {
  const auto layers = targeted_layers(model, config.targets);
  require_new(model, name);
  for (const AdapterSlot& slot : layers) {
    const at::TensorOptions options = adapter_options(*slot, config);
    const LoraShapes shapes = lora_shapes(*slot, config.rank);
    // PyTorch's default of the layer that A is: U(-1/sqrt(fan in), 1/sqrt(fan in)).
    const std::int64_t fan_in = slot->weight.numel() / slot->weight.size(0);
    const Init init_a = config.init == "kaiming" ? Init::uniform(1 / std::sqrt(double(fan_in)))
                                                 : Init::normal(1 / double(config.rank));
    const Purpose purpose(slot->layer + ".lora_A." + name);
    LayerAdapter adapter = layer_adapter(name, *slot, config, config.rank);
    adapter.a = fresh_leaf(purpose, shapes.a, init_a, options, draws);
    adapter.b = fresh_leaf(purpose, shapes.b, Init::zeros(), options, draws);
    if (config.use_dora) adapter.magnitude = magnitudes_of(*slot, options).requires_grad_(true);
    slot->adapters.push_back(std::move(adapter));
  }
  freeze(model);
  return adapter_parameters(model, name);
}

std::vector<NamedParameter> add_adapter(Parameters& model, const std::string& name,
                                        const LoraConfig& config,
                                        const std::vector<LoraTensors>& tensors) {
  require_new(model, name);
  for (const LoraTensors& given : tensors) {
    const LayerAdapters& layer = *given.layer;
    const std::int64_t rank = given.a.size(0);
    const LoraShapes shapes = lora_shapes(layer, rank);
    TRESTLE_ASSERT(given.a.sizes() == at::IntArrayRef(shapes.a) &&
                       given.b.sizes() == at::IntArrayRef(shapes.b) && layer.refusal.empty() &&
                       (!given.magnitude.defined() ||
                        given.magnitude.sizes() == at::IntArrayRef(shapes.magnitude)),
                   "tensors that are no adapter of {}", layer.layer);
    const auto leaf = [&](const at::Tensor& value) {
      return value.detach()
          .to(adapter_options(layer, config), /*non_blocking=*/false,
              /*copy=*/true)
          .contiguous()
          .requires_grad_(true);
    };
    LayerAdapter adapter = layer_adapter(name, layer, config, rank);
    adapter.a = leaf(given.a);
    adapter.b = leaf(given.b);
    if (given.magnitude.defined()) adapter.magnitude = leaf(given.magnitude);
    given.layer->adapters.push_back(std::move(adapter));
  }
  freeze(model);
  return adapter_parameters(model, name);
}

std::vector<NamedParameter> adapter_parameters(const Parameters& model, std::string_view name) {
  std::vector<NamedParameter> parameters;
  for (const AdapterSlot& slot : model.layers()) {
    const LayerAdapter* adapter = slot->find(name);
    if (adapter == nullptr) continue;
    parameters.push_back({slot->layer + ".lora_A.weight", adapter->a});
    parameters.push_back({slot->layer + ".lora_B.weight", adapter->b});
    if (adapter->magnitude.defined())
      parameters.push_back({slot->layer + ".lora_magnitude_vector", adapter->magnitude});
  }
  return parameters;
}

AdapterSet activate(const Parameters& model, std::vector<ActiveAdapter> adapters) {
  const std::vector<std::string> names = adapter_names(model);
  std::set<std::string_view> seen;
  for (const ActiveAdapter& adapter : adapters) {
    const std::string near = configs::nearest(adapter.name, names);
    TRESTLE_REQUIRE(std::ranges::count(names, adapter.name) == 1,
                    "there is no adapter \"{}\" (the model has: {}). {}.", adapter.name,
                    names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")),
                    near.empty() ? "Load it" : fmt::format("Did you mean \"{}\"?", near));
    TRESTLE_REQUIRE(seen.insert(adapter.name).second,
                    "adapter \"{}\" is named twice (its weight would not be clear). Name it once.",
                    adapter.name);
  }
  return {std::move(adapters)};
}

void merge(Parameters& model, const AdapterSet& set) {
  const CallContext call{.adapters = set};
  for (const AdapterSlot& slot : model.layers()) {
    if (!has_active(*slot, call)) continue;
    TRESTLE_ASSERT(slot->merged.empty(), "{} has merged adapters already", slot->layer);
    const at::NoGradGuard no_grad;
    const at::Tensor merged = merged_weight(*slot, set);
    slot->unmerged = slot->weight.detach().clone();
    slot->weight.copy_(merged);
    for (const ActiveAdapter& active : set.active) slot->merged.push_back(active.name);
  }
}

void unmerge(Parameters& model) {
  const at::NoGradGuard no_grad;
  for (const AdapterSlot& slot : model.layers()) {
    if (slot->merged.empty()) continue;
    slot->weight.copy_(slot->unmerged);
    slot->unmerged.reset();
    slot->merged.clear();
  }
}

}  // namespace trestle::models::nn
