#include "trainers/sana_bridge/options.h"

#include "base/error.h"
#include "trainers/options.h"

namespace trestle::trainers::sana_bridge {

void BridgeOptions::describe(configs::Fields& f) {
  f.field("noise_scale", noise_scale,
          {.help = "s of the Brownian bridge; 0: a straight line", .min = 0});
  f.field("codec", codec, {.help = "how pictures become latents", .choices = {"pixels"}});
  f.field("codec_factor", codec_factor,
          {.help = "side of the cell that becomes one latent pixel",
           .unit = "pixels",
           .min = 1,
           .needs = {"codec", "pixels"}});
}

void ModelOptions::describe(configs::Fields& f) {
  SanaConfig::describe(f);
  f.field(
      "dtype", dtype,
      {.help = "of parameters, gradients, optimizer state and loss; bfloat16: of the frozen model "
               "under adapters, with fp32 for all that is trained and for the loss",
       .choices = {"float32", "float64", "bfloat16"}});
}

at::ScalarType ModelOptions::scalar_type() const {
  return dtype == "bfloat16" ? at::kBFloat16 : bridge_type();
}

void LoraOptions::describe(configs::Fields& f) {
  f.field("enabled", enabled, {.help = "train adapters and leave the model as it is"});
  LoraConfig::describe(f, {"enabled", true});
}

Options read_options(const configs::Recipe& recipe) {
  const auto train = recipe.section<TrainOptions>("train");
  Options o{.bridge = recipe.section<BridgeOptions>("task"),
            .model = recipe.section<ModelOptions>("model"),
            .lora = recipe.section<LoraOptions>("lora"),
            .data = recipe.section<data::PairedPicturesOptions>("data"),
            .sampler = recipe.section<processes::BridgeSamplerOptions>("sample"),
            .micro_batch = train.micro_batch,
            .checkpoint_every = train.checkpoint_every,
            .seed = static_cast<std::uint64_t>(recipe.section<RunOptions>("run").seed)};

  std::string problems;
  const auto refuse = [&](const std::string& key, const std::string& message) {
    if (!problems.empty()) problems += "\n";
    problems += recipe.error_at(key, message).what();
  };
  for (const auto& refusal : o.model.refusals()) {
    refuse("model." + refusal.field, "model." + refusal.message);
  }
  const std::int64_t f = o.bridge.codec_factor;
  if (o.model.in_channels != 3 * f * f) {
    refuse("model.in_channels",
           fmt::format("model.in_channels = {} (the pixels codec with task.codec_factor = {} makes "
                       "3 x {} x {} = {} channels). Set model.in_channels = {}.",
                       o.model.in_channels, f, f, f, 3 * f * f, 3 * f * f));
  }
  if (o.model.output_channels() != o.model.in_channels) {
    refuse(
        "model.out_channels",
        fmt::format("model.out_channels = {} (a bridge predicts a velocity of the latents' own {} "
                    "channels). Set it to \"none\" or {}.",
                    o.model.output_channels(), o.model.in_channels, o.model.in_channels));
  }
  if (o.data.resolution != f * o.model.sample_size) {
    refuse("model.sample_size",
           fmt::format(
               "model.sample_size = {} (pictures of data.resolution = {} pixels become latents "
               "of {} / {} pixels a side). Make data.resolution = task.codec_factor x "
               "model.sample_size.",
               o.model.sample_size, o.data.resolution, o.data.resolution, f));
  }
  if (o.model.guidance_embeds_scale != models::sana::SanaConfig().guidance_embeds_scale) {
    refuse(
        "model.guidance_embeds_scale",
        fmt::format("model.guidance_embeds_scale = {} has no effect (guidance embeddings are not "
                    "supported). Remove it.",
                    o.model.guidance_embeds_scale));
  }
  if (o.model.sample_size % o.model.patch_size != 0) {
    refuse(
        "model.patch_size",
        fmt::format(
            "model.patch_size = {} does not divide model.sample_size = {} (tokens would not tile "
            "the latents). Change one of them.",
            o.model.patch_size, o.model.sample_size));
  }
  if (o.model.dtype == "bfloat16" && !o.lora.enabled) {
    refuse(
        "model.dtype",
        "model.dtype = \"bfloat16\" without adapters (a model in 16 bits is not trained itself). "
        "Set lora.enabled = true, or model.dtype = \"float32\".");
  }
  if (o.checkpoint_every > o.model.num_layers) {
    refuse("train.checkpoint_every",
           fmt::format("train.checkpoint_every = {} (the model has model.num_layers = {} blocks). "
                       "Set it to 0 for no checkpointing, or to at most {}.",
                       o.checkpoint_every, o.model.num_layers, o.model.num_layers));
  }
  if (!problems.empty()) throw Error(ExitCode::usage, problems);
  return o;
}

}  // namespace trestle::trainers::sana_bridge
