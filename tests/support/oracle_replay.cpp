// oracle_replay CASE_DIR [CASE_DIR ...]: runs a model on a case that someone else made, so that any
// outside program can be the judge.
//
// A case folder holds case.json {"family", "config": the reference library's config.json, "dtype",
// "call": {"grad_inputs": names, and what the family adds}}, weights.safetensors (the reference's
// state_dict names) and inputs.safetensors (the reference's forward arguments, and `cotangent`). It
// gets replayed.safetensors: `output`, and for loss = sum(output * cotangent) `grad.<parameter>`
// and `grad_input.<argument>`, the output alone where there is no cotangent; its metadata says how
// many fused kernels ran.
//
// oracle_replay --keys FAMILY CONFIG.json prints NAME<TAB>AxBxC for a model on the meta device.
#include "base/error.h"
#include "base/files.h"
#include "models/nn/activations.h"
#include "models/weights/safetensors_io.h"
#include "tests/support/replay/family.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <filesystem>

namespace trestle::replay {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kTextLimit = 64 << 20;

/// A function's static, since registrations run before main in any order.
std::vector<Family>& registered() {
  static std::vector<Family> all;
  return all;
}

const Family& family_named(const std::string& name, const std::string& source) {
  std::string known;
  for (const auto& family : families()) {
    if (family.name == name) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.name);
  }
  fail(ExitCode::usage, "{}: family \"{}\" is not known (these are: {}). Correct it.", source, name,
       known);
}

at::ScalarType dtype_of(const std::string& name, const std::string& source) {
  if (name == "float32") return at::kFloat;
  if (name == "float64") return at::kDouble;
  if (name == "bfloat16") return at::kBFloat16;
  fail(ExitCode::usage,
       "{}: dtype \"{}\" is not known (float32, float64 and bfloat16 are). Correct it.", source,
       name);
}

/// The gradient of a leaf, zeros where the loss does not reach it.
models::nn::NamedParameter gradient(const std::string& key, const at::Tensor& leaf) {
  return {key, leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf)};
}

void replay_case(const fs::path& folder) {
  const auto file = folder / "case.json";
  const std::string source = file.string();
  const auto told =
      nlohmann::json::parse(read_text_file(file, kTextLimit, ExitCode::data), nullptr, false);
  TRESTLE_REQUIRE(told.is_object() && told.contains("family") && told.contains("config") &&
                      told.contains("dtype") && told.contains("call"),
                  "{} is no case (a JSON object with family, config, dtype, call). Write it anew.",
                  source);
  const auto dtype = dtype_of(told.at("dtype").get<std::string>(), source);
  const auto& call = told.at("call");
  const auto model = family_named(told.at("family").get<std::string>(), source)
                         .make(told.at("config").dump(), source, at::TensorOptions().dtype(dtype));
  models::weights::load_parameters(folder / "weights.safetensors", model->parameters());

  Inputs inputs = models::weights::read_all(folder / "inputs.safetensors");
  const auto wanted = call.at("grad_inputs").get<std::vector<std::string>>();
  for (const auto& name : wanted) inputs.at(name).requires_grad_(true);

  const std::int64_t fused_before = models::nn::fused_calls();
  const at::Tensor output = model->forward(inputs, call);
  const std::int64_t fused = models::nn::fused_calls() - fused_before;

  std::vector<models::nn::NamedParameter> results = {{"output", output}};
  if (const auto cotangent = inputs.find("cotangent"); cotangent != inputs.end()) {
    torch::autograd::backward({(output * cotangent->second).sum()}, {});
    for (const auto& parameter : model->parameters().all()) {
      results.push_back(gradient("grad." + parameter.name, parameter.tensor));
    }
    for (const auto& name : wanted) {
      results.push_back(gradient("grad_input." + name, inputs.at(name)));
    }
  }
  models::weights::write_tensors(folder / "replayed.safetensors", results,
                                 {{"fused_calls", std::to_string(fused)}});
}

void print_keys(const std::string& family, const std::string& file) {
  const auto model = family_named(family, "--keys")
                         .make(read_text_file(file, kTextLimit, ExitCode::data), file,
                               at::TensorOptions().device(at::kMeta));
  for (const auto& parameter : model->parameters().all()) {
    std::printf("%s\t%s\n", parameter.name.c_str(),
                fmt::format("{}", fmt::join(parameter.tensor.sizes(), "x")).c_str());
  }
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() == 3 && arguments[0] == "--keys") {
    return print_keys(arguments[1], arguments[2]);
  }
  TRESTLE_REQUIRE(!arguments.empty() && arguments[0] != "--keys",
                  "no case given (nothing to replay). Usage: oracle_replay CASE_DIR ... | --keys "
                  "FAMILY CONFIG.json");
  for (const auto& folder : arguments) replay_case(folder);
}

}  // namespace

const std::vector<Family>& families() { return registered(); }

Registration::Registration(const Family& family) { registered().push_back(family); }

}  // namespace trestle::replay

int main(int argc, char** argv) {
  try {
    trestle::replay::run({argv + 1, argv + argc});
    return 0;
  } catch (const trestle::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
