// lora_replay CASE_DIR [CASE_DIR ...]: runs a Sana with LoRA adapters on cases that someone else
// made (tests/oracle/lora_oracle.py), so that an outside program can be the judge.
//
// A case folder holds what oracle_replay's does, and in case.json besides:
//   "adapters"          [{"name", "file", "weight"}], in the order in which they act
//   "merge"             whether they are merged into the weights first
//   "checkpoint_every"  blocks that backward recomputes together
//   "dropout"           null, or {"seed", "positions"}: the masks are drawn from these
//   "masks"             {"ADAPTER": {"LAYER": [shape of a row]}}: masks that are asked for
// It gets NAME.rewritten.safetensors for each adapter and replayed.safetensors: `output`,
// `grad.ADAPTER.PARAMETER` and `grad_input.ARGUMENT` (not where they are merged), and
// `mask.ADAPTER.LAYER`.
#include "base/error.h"
#include "base/files.h"
#include "models/nn/activations.h"
#include "models/nn/lora.h"
#include "models/sana/transformer.h"
#include "models/weights/lora_file.h"
#include "models/weights/safetensors_io.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

namespace {

using namespace trestle;
using models::nn::NamedParameter;
using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::uint64_t kTextLimit = 64 << 20;

at::ScalarType dtype_of(const std::string& name) {
  const std::map<std::string, at::ScalarType> known = {
      {"float32", at::kFloat}, {"float64", at::kDouble}, {"bfloat16", at::kBFloat16}};
  const auto found = known.find(name);
  TRESTLE_REQUIRE(found != known.end(),
                  "dtype \"{}\" is not known (float32, float64 and bfloat16 "
                  "are). Correct it.",
                  name);
  return found->second;
}

std::optional<models::sana::DropoutDraws> dropout_of(const json& told) {
  if (told.is_null()) return std::nullopt;
  models::sana::DropoutDraws dropout{Draws(told.at("seed").get<std::uint64_t>()), {}};
  for (const auto position : told.at("positions").get<std::vector<std::int64_t>>())
    dropout.positions.push_back({position});
  return dropout;
}

void replay(const fs::path& folder) {
  const json told = json::parse(read_text_file(folder / "case.json", kTextLimit, ExitCode::data));
  const auto options = at::TensorOptions().dtype(dtype_of(told.at("dtype").get<std::string>()));
  const auto config =
      models::sana::config_from_json(told.at("config").dump(), (folder / "case.json").string());
  models::nn::Parameters parameters(options, Draws(0));
  const models::sana::SanaTransformer model(config, parameters.root());
  models::weights::load_parameters(folder / "weights.safetensors", parameters);

  std::vector<models::nn::ActiveAdapter> active;
  std::vector<std::pair<std::string, std::vector<NamedParameter>>> adapters;
  for (const json& adapter : told.at("adapters")) {
    const auto name = adapter.at("name").get<std::string>();
    const auto loaded = models::weights::load_adapter(
        folder / adapter.at("file").get<std::string>(), parameters, name);
    models::weights::write_adapter(folder / (name + ".rewritten.safetensors"), loaded.parameters,
                                   loaded.config);
    active.push_back({name, adapter.at("weight").get<double>()});
    adapters.emplace_back(name, loaded.parameters);
  }
  const models::nn::AdapterSet set = models::nn::activate(parameters, active);
  const bool merged = told.at("merge").get<bool>();
  if (merged) models::nn::merge(parameters, set);

  auto inputs = models::weights::read_all(folder / "inputs.safetensors");
  at::Tensor hidden_states = inputs.at("hidden_states").requires_grad_(true);
  at::Tensor text = inputs.at("encoder_hidden_states").requires_grad_(true);
  at::Tensor mask;
  if (inputs.contains("encoder_attention_mask")) mask = inputs.at("encoder_attention_mask");
  const auto dropout = dropout_of(told.at("dropout"));

  const std::int64_t fused_before = models::nn::fused_calls();
  const at::Tensor output =
      model({.latents_bchw = hidden_states,
             .text_blc = text,
             .timestep_b = inputs.at("timestep"),
             .text_mask_bl = mask,
             .dropout = dropout ? &*dropout : nullptr,
             .adapters = merged ? nullptr : &set,
             .checkpoint_every = told.at("checkpoint_every").get<std::int64_t>()});
  const std::int64_t fused = models::nn::fused_calls() - fused_before;

  std::vector<NamedParameter> results = {{"output", output}};
  if (!merged) {
    torch::autograd::backward({(output * inputs.at("cotangent")).sum()}, {});
    const auto add = [&](const std::string& key, const at::Tensor& leaf) {
      results.push_back({key, leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf)});
    };
    for (const auto& [name, own] : adapters) {
      for (const auto& parameter : own)
        add("grad." + name + "." + parameter.name, parameter.tensor);
    }
    add("grad_input.hidden_states", hidden_states);
    add("grad_input.encoder_hidden_states", text);
  }
  for (const auto& [name, layers] : told.at("masks").items()) {
    for (const auto& [layer, shape] : layers.items()) {
      const auto slot = models::nn::targeted_layers(parameters, {layer}).front();
      const auto* adapter = slot->find(name);
      results.push_back(
          {"mask." + name + "." + layer,
           models::nn::dropout_keeps(*dropout, adapter->dropout, adapter->dropout_purpose,
                                     shape.get<std::vector<std::int64_t>>(),
                                     adapter->a.options().requires_grad(false))});
    }
  }
  models::weights::write_tensors(folder / "replayed.safetensors", results,
                                 {{"fused_calls", std::to_string(fused)}});
}

}  // namespace

int main(int argc, char** argv) {
  try {
    TRESTLE_REQUIRE(argc > 1, "no case given (nothing to replay). Usage: lora_replay CASE_DIR ...");
    for (int i = 1; i < argc; ++i) replay(argv[i]);
    return 0;
  } catch (const trestle::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
