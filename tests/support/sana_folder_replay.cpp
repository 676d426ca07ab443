// sana_folder_replay FOLDER CASE_DIR: loads a SanaPipeline's folder as diffusers saved it, and does
// what the pipeline does in one step, so that an outside program can be the judge.
//
// The case holds call.json {"prompts", "negative_prompts", "guidance_scale"} and inputs.safetensors
// (latents [B, C, h, w], timestep [B], pictures [P, 3, H, W]; B prompts). It gets
// replayed.safetensors: text, mask, negative_text, negative_mask (plain_...: without the
// instruction), the guided prediction, pictures of the latents, latents of the pictures.
#include "base/error.h"
#include "base/files.h"
#include "models/dc_ae/autoencoder.h"
#include "models/gemma2/model.h"
#include "models/sana/transformer.h"
#include "models/text/prompt_encoder.h"
#include "models/weights/pretrained.h"
#include "models/weights/safetensors_io.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

namespace {

using namespace trestle;
using namespace trestle::models;
namespace fs = std::filesystem;

constexpr std::uint64_t kTextLimit = 1 << 20;

struct Call {
  std::vector<std::string> prompts, negative_prompts;
  double guidance_scale = 1;

  explicit Call(const fs::path& file) {
    const auto told = nlohmann::json::parse(read_text_file(file, kTextLimit, ExitCode::data));
    prompts = told.at("prompts").get<std::vector<std::string>>();
    negative_prompts = told.at("negative_prompts").get<std::vector<std::string>>();
    guidance_scale = told.at("guidance_scale").get<double>();
  }
};

void replay(const fs::path& folder, const fs::path& case_dir) {
  const Call call(case_dir / "call.json");
  auto inputs = weights::read_all(case_dir / "inputs.safetensors");
  const at::NoGradGuard no_gradients;
  const at::TensorOptions options = at::kFloat;

  const auto tokenizer = text::Tokenizer::from_folder(folder / "tokenizer");
  const auto encoder = weights::pretrained<gemma2::Gemma2Model>(folder / "text_encoder", options,
                                                                gemma2::config_from_json,
                                                                {.rename = gemma2::reference_name});
  const auto transformer = weights::pretrained<sana::SanaTransformer>(
      folder / "transformer", options, sana::config_from_json);
  const auto codec =
      weights::pretrained<dc_ae::AutoencoderDc>(folder / "vae", options, dc_ae::config_from_json);

  std::vector<nn::NamedParameter> results;
  const auto embed = [&](const std::string& prefix, const std::vector<std::string>& instruction) {
    const text::PromptTokenizer prompts(tokenizer, instruction);
    const auto with_encoder = [&](const text::PromptTokens& tokens) {
      return text::embed(tokens, encoder.model);
    };
    const auto positive = with_encoder(prompts.positive(call.prompts));
    const auto negative = with_encoder(prompts.negative(call.negative_prompts));
    results.insert(results.end(), {{prefix + "text", positive.text_blc},
                                   {prefix + "mask", positive.mask_bl},
                                   {prefix + "negative_text", negative.text_blc},
                                   {prefix + "negative_mask", negative.mask_bl}});
    return text::for_guidance(negative, positive);
  };
  const auto text = embed("", text::sana_instruction());
  embed("plain_", {});

  const at::Tensor latents_bchw = inputs.at("latents");
  const at::Tensor timestep_b = inputs.at("timestep") * transformer.model.config().timestep_scale;
  const auto predictions = transformer
                               .model({.latents_bchw = at::cat({latents_bchw, latents_bchw}),
                                       .text_blc = text.text_blc,
                                       .timestep_b = at::cat({timestep_b, timestep_b}),
                                       .text_mask_bl = text.mask_bl})
                               .chunk(2);
  results.push_back(
      {"guided", predictions[0] + call.guidance_scale * (predictions[1] - predictions[0])});

  const double scale = codec.model.config().scaling_factor;
  results.push_back({"pictures", codec.model.decode(latents_bchw / scale)});
  results.push_back({"latents", codec.model.encode(inputs.at("pictures")) * scale});
  weights::write_tensors(case_dir / "replayed.safetensors", results);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    TRESTLE_REQUIRE(argc == 3, "no folder and case given. Usage: sana_folder_replay FOLDER CASE");
    replay(argv[1], argv[2]);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
