// A model as a folder of the hub holds it: config.json beside its weights.
//
//   auto encoder = weights::pretrained<gemma2::Gemma2Model>(
//       "sana/text_encoder", at::kBFloat16, gemma2::config_from_json, {gemma2::reference_name});
//   at::Tensor states = encoder.model(ids, mask);
//
// Weights are cast to the dtype that is asked for; no value is drawn for what a file brings.
// LOCAL. THREADS: one; loading starts its own. ERRORS: Error(data) for files that are missing or
// damaged, or hold other tensors than the configuration asks for; Error(usage) for a configuration
// that cannot be run.
#pragma once
#include "base/error.h"
#include "base/files.h"
#include "models/nn/parameters.h"
#include "models/weights/load.h"

#include <cstdint>
#include <filesystem>

namespace trestle::models::weights {

template <class Model>
struct Pretrained {
  nn::Parameters parameters;
  Model model;
  LoadReport report;
};

/// `read_config(text, name)` makes the model's configuration of its config.json.
template <class Model, class ReadConfig>
Pretrained<Model> pretrained(const std::filesystem::path& folder, const at::TensorOptions& options,
                             ReadConfig read_config, const LoadOptions& load = {}) {
  constexpr std::uint64_t kConfigLimit = 4 << 20;
  const std::filesystem::path file = folder / "config.json";
  const auto config =
      read_config(read_text_file(file, kConfigLimit, ExitCode::data), file.string());
  nn::Parameters parameters = nn::Parameters::unfilled(options);
  Model model(config, parameters.root());
  LoadReport report = load_parameters(folder, parameters, load);
  return {std::move(parameters), std::move(model), std::move(report)};
}

}  // namespace trestle::models::weights
