#include "models/weights/lora_file.h"

#include "base/error.h"
#include "base/log.h"
#include "base/problem_list.h"
#include "configs/nearest.h"
#include "formats/lora_metadata.h"
#include "formats/lora_names.h"
#include "models/weights/safetensors_io.h"
#include "models/weights/source.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace trestle::models::weights {
namespace {

using formats::LoraPart;

constexpr std::string_view kPrefix = "transformer.";

/// What is wrong with a file, with names from it.
class Problems {
 public:
  template <class Sentence>
  void add(Sentence&& sentence) {
    list_.add([&] { return formats::plain_name(sentence()); });
  }
  void require_none(const std::filesystem::path& path) const {
    TRESTLE_REQUIRE_AS(
        data, list_.count() == 0,
        "{} cannot be loaded as a LoRA of this model (nothing in such a file is left "
        "out). Check that it was made for this model:{}",
        path.string(), list_.lines());
  }

 private:
  ProblemList list_;
};

struct LayerEntries {
  nn::AdapterSlot slot;
  const formats::StoredTensor *a = nullptr, *b = nullptr, *magnitude = nullptr;
};

const formats::StoredTensor*& part_of(LayerEntries& layer, LoraPart part) {
  switch (part) {
    case LoraPart::a:
      return layer.a;
    case LoraPart::b:
      return layer.b;
    case LoraPart::magnitude:
      break;
  }
  return layer.magnitude;
}

std::vector<std::string> adaptable_layers(const nn::Parameters& model) {
  std::vector<std::string> names;
  for (const auto& slot : model.layers()) {
    if (slot->refusal.empty()) names.push_back(slot->layer);
  }
  return names;
}

/// The file's tensors by layer, in the model's order.
std::vector<LayerEntries> sort_by_layer(const Source& file, const nn::Parameters& model,
                                        Problems& problems) {
  std::vector<LayerEntries> layers;
  std::map<std::string_view, std::size_t> index;
  for (const auto& slot : model.layers()) {
    index.emplace(slot->layer, layers.size());
    layers.push_back({.slot = slot});
  }
  const std::vector<std::string> names = adaptable_layers(model);
  for (const auto& entry : file.tensors()) {
    const formats::LoraName name = formats::parse_lora_name(entry.name);
    const auto found = index.find(name.layer);
    if (!name.refusal.empty()) {
      problems.add([&] { return fmt::format("{}: {}", entry.name, name.refusal); });
    } else if (found == index.end()) {
      problems.add([&] {
        const std::string near = configs::nearest(name.layer, names);
        return fmt::format("{}: the model has no layer \"{}\"{}", entry.name, name.layer,
                           near.empty() ? "" : fmt::format("; the nearest is \"{}\"", near));
      });
    } else if (LayerEntries& layer = layers[found->second]; !layer.slot->refusal.empty()) {
      problems.add([&] { return fmt::format("{}: {}", entry.name, layer.slot->refusal); });
    } else if (auto*& part = part_of(layer, name.part); part != nullptr) {
      problems.add([&] { return fmt::format("{}: says what {} says", entry.name, part->name); });
    } else {
      part = &entry;
    }
  }
  std::erase_if(layers, [](const LayerEntries& layer) {
    return layer.a == nullptr && layer.b == nullptr && layer.magnitude == nullptr;
  });
  return layers;
}

void check_shape(const formats::StoredTensor& entry, const std::vector<std::int64_t>& wanted,
                 Problems& problems) {
  if (entry.shape == wanted) return;
  problems.add([&] {
    return fmt::format("{}: has the shape [{}], not [{}]", entry.name, fmt::join(entry.shape, ", "),
                       fmt::join(wanted, ", "));
  });
}

/// `metadata` is null where the file has none.
void check_layer(const LayerEntries& layer, const formats::LoraMetadata* metadata, bool use_dora,
                 Problems& problems) {
  const std::string& name = layer.slot->layer;
  if (layer.a == nullptr || layer.b == nullptr) {
    problems.add([&] {
      return fmt::format("{}: has no {}", name, layer.a == nullptr ? "lora_A" : "lora_B");
    });
    return;
  }
  const std::int64_t rank = layer.a->shape.empty() ? 0 : layer.a->shape[0];
  if (rank < 1) {
    problems.add([&] { return fmt::format("{}: has a rank of 0", layer.a->name); });
    return;
  }
  const nn::LoraShapes shapes = nn::lora_shapes(*layer.slot, rank);
  check_shape(*layer.a, shapes.a, problems);
  check_shape(*layer.b, shapes.b, problems);
  if (metadata != nullptr && metadata->rank_of(name) != rank) {
    problems.add([&] {
      return fmt::format("{}: has rank {}, where the file's header says {}", layer.a->name, rank,
                         metadata->rank_of(name));
    });
  }
  if (use_dora && layer.magnitude == nullptr) {
    problems.add([&] { return fmt::format("{}: has no lora_magnitude_vector", name); });
  } else if (!use_dora && layer.magnitude != nullptr) {
    problems.add([&] {
      return fmt::format("{}: is DoRA's, where the file's header says it is none",
                         layer.magnitude->name);
    });
  }
  if (layer.magnitude != nullptr) check_shape(*layer.magnitude, shapes.magnitude, problems);
}

nn::LoraConfig config_of(const std::optional<formats::LoraMetadata>& metadata,
                         const std::vector<LayerEntries>& layers, bool use_dora,
                         const std::string& dtype) {
  nn::LoraConfig config{.use_dora = use_dora, .targets = {}, .dtype = dtype};
  config.rank = metadata ? metadata->rank : layers.front().a->shape[0];
  if (metadata) {
    config.alpha = metadata->alpha;
    config.use_rslora = metadata->use_rslora;
    config.dropout = metadata->dropout;
    config.init = metadata->gaussian ? "gaussian" : "kaiming";
    config.targets = metadata->targets;
    for (const auto& layer : layers) {
      const double alpha = metadata->alpha_of(layer.slot->layer);
      if (alpha != metadata->alpha) config.alphas[layer.slot->layer] = alpha;
    }
  }
  if (config.targets.empty()) {
    for (const auto& layer : layers) config.targets.push_back(layer.slot->layer);
  }
  return config;
}

/// Half precision holds more digits than bfloat16, and bfloat16 more than half's range.
void warn_of_rounding(const Source& file, const nn::Parameters& model, const std::string& dtype) {
  const bool half = std::ranges::any_of(file.tensors(), [](const formats::StoredTensor& entry) {
    return entry.dtype == formats::ElementType::float16;
  });
  if (half && dtype == "base" && model.options().dtype() == at::kBFloat16) {
    log_common_warning(fmt::format(
        "{} holds F16 tensors, which become BF16 and lose three bits each (lora.dtype = \"base\"). "
        "lora.dtype = \"float32\" keeps them.",
        file.path().string()));
  }
}

}  // namespace

LoadedAdapter load_adapter(const std::filesystem::path& path, nn::Parameters& model,
                           const std::string& name, const std::string& dtype) {
  const auto file = Source::open(path);
  std::optional<formats::LoraMetadata> metadata;
  if (const auto found = file.metadata().find(std::string(formats::kLoraMetadataKey));
      found != file.metadata().end())
    metadata = formats::parse_lora_metadata(found->second, path.string());

  Problems problems;
  const std::vector<LayerEntries> layers = sort_by_layer(file, model, problems);
  if (file.tensors().empty()) problems.add([] { return std::string("it holds no tensor"); });
  const bool use_dora =
      metadata ? metadata->use_dora : std::ranges::any_of(layers, [](const LayerEntries& layer) {
        return layer.magnitude != nullptr;
      });
  for (const auto& layer : layers)
    check_layer(layer, metadata ? &*metadata : nullptr, use_dora, problems);
  problems.require_none(path);
  warn_of_rounding(file, model, dtype);

  LoadedAdapter loaded{.config = config_of(metadata, layers, use_dora, dtype), .parameters = {}};
  std::vector<nn::LoraTensors> tensors;
  for (const auto& layer : layers) {
    tensors.push_back({.layer = layer.slot,
                       .a = read_tensor(file, *layer.a),
                       .b = read_tensor(file, *layer.b),
                       .magnitude = use_dora ? read_tensor(file, *layer.magnitude) : at::Tensor()});
  }
  loaded.parameters = nn::add_adapter(model, name, loaded.config, tensors);
  return loaded;
}

void write_adapter(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& adapter, const nn::LoraConfig& config) {
  formats::LoraMetadata metadata{.rank = config.rank,
                                 .alpha = config.alpha.value_or(double(config.rank)),
                                 .use_rslora = config.use_rslora,
                                 .use_dora = config.use_dora,
                                 .dropout = config.dropout,
                                 .gaussian = config.init == "gaussian",
                                 .targets = config.targets};
  std::vector<nn::NamedParameter> renamed;
  for (const auto& [name, tensor] : adapter) {
    const formats::LoraName parsed = formats::parse_lora_name(name);
    TRESTLE_ASSERT(parsed.refusal.empty(), "{} is no parameter of an adapter", name);
    renamed.push_back(
        {std::string(kPrefix) + parsed.layer + std::string(formats::lora_suffix(parsed.part)),
         tensor});
    if (parsed.part != LoraPart::a) continue;
    const std::int64_t rank = tensor.size(0);
    const double alpha = config.alpha_of(parsed.layer, rank);
    // "^": no other layer's name that ends like this one.
    if (rank != metadata.rank) metadata.ranks["^" + parsed.layer] = rank;
    if (alpha != metadata.alpha) metadata.alphas["^" + parsed.layer] = alpha;
  }
  write_tensors(
      path, renamed,
      {{"format", "pt"}, {std::string(formats::kLoraMetadataKey), formats::to_text(metadata)}});
}

}  // namespace trestle::models::weights
