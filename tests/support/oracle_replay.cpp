// oracle_replay CASE_DIR [CASE_DIR ...]: runs a model on a case that someone else made, so that any
// outside program can be the judge.
//
// A case folder holds case.json {"family", "config": the reference library's config.json, "dtype",
// "call"}, weights.safetensors (the reference's state_dict names) and inputs.safetensors (the
// reference's forward arguments, and `cotangent`). It gets replayed.safetensors: `output`, and for
// loss = sum(output * cotangent) `grad.<parameter>` and `grad_input.<argument>`; its metadata says
// how many fused kernels ran.
//
// oracle_replay --keys CONFIG.json prints NAME<TAB>AxBxC for a model on the meta device.
#include "base/error.h"
#include "base/files.h"
#include "configs/json.h"
#include "models/nn/activations.h"
#include "models/sana/transformer.h"
#include "models/weights/safetensors_io.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <filesystem>

namespace {

using namespace trestle;
namespace fs = std::filesystem;

constexpr std::uint64_t kTextLimit = 64 << 20;

at::ScalarType dtype_of(const std::string& name, const fs::path& file) {
  if (name == "float32") return at::kFloat;
  if (name == "float64") return at::kDouble;
  fail(ExitCode::usage, "{}: dtype \"{}\" is not known (float32 and float64 are). Correct it.",
       file.string(), name);
}

struct Sana {
  models::sana::SanaConfig config;
  models::nn::Parameters parameters;
  models::sana::SanaTransformer model;

  Sana(const models::sana::SanaConfig& c, const at::TensorOptions& options)
      : config(c), parameters(options, Draws(0)), model(config, parameters.root()) {}
};

models::sana::SanaConfig sana_config(const std::string& text, const std::string& name) {
  const auto config = configs::from_json<models::sana::SanaConfig>(text, name);
  models::sana::require_supported(config, name);
  return config;
}

void replay_sana(const fs::path& folder, const nlohmann::json& description) {
  const auto name = (folder / "case.json").string();
  const auto dtype = dtype_of(description.at("dtype").get<std::string>(), name);
  Sana sana(sana_config(description.at("config").dump(), name), at::TensorOptions().dtype(dtype));
  models::weights::load_parameters(folder / "weights.safetensors", sana.parameters);
  auto inputs = models::weights::read_all(folder / "inputs.safetensors");

  at::Tensor hidden_states = inputs.at("hidden_states").requires_grad_(true);
  at::Tensor text = inputs.at("encoder_hidden_states").requires_grad_(true);
  at::Tensor mask;
  if (inputs.contains("encoder_attention_mask")) mask = inputs.at("encoder_attention_mask");

  const std::int64_t fused_before = models::nn::fused_calls();
  const at::Tensor output = sana.model({.latents_bchw = hidden_states,
                                        .text_blc = text,
                                        .timestep_b = inputs.at("timestep"),
                                        .text_mask_bl = mask});
  const std::int64_t fused = models::nn::fused_calls() - fused_before;
  torch::autograd::backward({(output * inputs.at("cotangent")).sum()}, {});

  std::vector<models::nn::NamedParameter> results = {{"output", output}};
  const auto add = [&](const std::string& key, const at::Tensor& leaf) {
    results.push_back({key, leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf)});
  };
  for (const auto& parameter : sana.parameters.all())
    add("grad." + parameter.name, parameter.tensor);
  add("grad_input.hidden_states", hidden_states);
  add("grad_input.encoder_hidden_states", text);
  models::weights::write_tensors(folder / "replayed.safetensors", results,
                                 {{"fused_calls", std::to_string(fused)}});
}

void replay(const fs::path& folder) {
  const auto file = folder / "case.json";
  const auto description =
      nlohmann::json::parse(read_text_file(file, kTextLimit, ExitCode::data), nullptr, false);
  TRESTLE_REQUIRE(description.is_object() && description.contains("family"),
                  "{} is no case (a JSON object with family, config, dtype). Write it anew.",
                  file.string());
  const auto family = description.at("family").get<std::string>();
  if (family == "sana") return replay_sana(folder, description);
  fail(ExitCode::usage, "{}: family \"{}\" is not known (sana is). Correct it.", file.string(),
       family);
}

void print_keys(const std::string& file) {
  const auto config = sana_config(read_text_file(file, kTextLimit, ExitCode::data), file);
  const Sana sana(config, at::TensorOptions().device(at::kMeta));
  for (const auto& parameter : sana.parameters.all()) {
    std::printf("%s\t%s\n", parameter.name.c_str(),
                fmt::format("{}", fmt::join(parameter.tensor.sizes(), "x")).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments.size() == 2 && arguments[0] == "--keys") {
      print_keys(arguments[1]);
      return 0;
    }
    TRESTLE_REQUIRE(!arguments.empty(),
                    "no case given (nothing to replay). Usage: oracle_replay CASE_DIR ... | --keys "
                    "CONFIG.json");
    for (const auto& folder : arguments) replay(folder);
    return 0;
  } catch (const trestle::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
