#include "models/sana/config.h"

#include "base/error.h"
#include "models/config_json.h"

namespace trestle::models::sana {

void SanaConfig::describe(configs::Fields& f) {
  f.field("in_channels", in_channels, {.help = "channels of the latents that go in", .min = 1});
  f.field("out_channels", out_channels,
          {.help = "channels of the prediction; none: as many as go in", .min = 1});
  f.field("num_attention_heads", num_attention_heads,
          {.help = "heads of the linear self-attention; heads x attention_head_dim is the width",
           .min = 1});
  f.field("attention_head_dim", attention_head_dim,
          {.help = "channels of a self-attention head", .min = 1});
  f.field("num_layers", num_layers, {.help = "transformer blocks", .min = 1});
  f.field("num_cross_attention_heads", num_cross_attention_heads,
          {.help = "heads of the attention to the text", .min = 1});
  f.field("cross_attention_head_dim", cross_attention_head_dim,
          {.help = "channels of a cross-attention head", .min = 1});
  f.field("cross_attention_dim", cross_attention_dim,
          {.help = "width of the projected text; must equal the model's width", .min = 1});
  f.field("caption_channels", caption_channels,
          {.help = "channels of a text embedding row", .min = 1});
  f.field("mlp_ratio", mlp_ratio,
          {.help = "hidden width of the gated convolution, in widths of the model", .min = 0.01});
  f.field("dropout", dropout,
          {.help = "dropout after both attentions' output projections", .min = 0, .max = 0.99});
  f.field("attention_bias", attention_bias, {.help = "bias in the self-attention's q, k and v"});
  f.field("sample_size", sample_size,
          {.help = "side of the latents the model is made for", .unit = "latent pixels", .min = 1});
  f.field("patch_size", patch_size, {.help = "side of a token", .unit = "latent pixels", .min = 1});
  f.field("norm_elementwise_affine", norm_elementwise_affine,
          {.help = "weight and bias in the norm before the feed-forward"});
  f.field("norm_eps", norm_eps, {.help = "epsilon of the blocks' layer norms", .min = 0});
  f.field("interpolation_scale", interpolation_scale,
          {.help = "scale of sine-cosine positions; none: no positional embedding", .min = 0.001});
  f.field("guidance_embeds", guidance_embeds,
          {.help = "Sana-Sprint's guidance embedding (refused: not supported)"});
  f.field("guidance_embeds_scale", guidance_embeds_scale,
          {.help = "scale of the guidance embedding (refused without guidance_embeds)"});
  f.field("qk_norm", qk_norm,
          {.help = "norm of queries and keys: none, rms_norm_across_heads, "
                   "layer_norm_across_heads or l2"});
  f.field("timestep_scale", timestep_scale,
          {.help = "factor on the timestep (0..1000) that the model is given"});
}

std::vector<Refusal> SanaConfig::refusals() const {
  std::vector<Refusal> found;
  const auto refuse = [&](std::string field, std::string message) {
    found.push_back({std::move(field), std::move(message)});
  };
  if (guidance_embeds) {
    refuse("guidance_embeds",
           "guidance_embeds = true is not supported (it is Sana-Sprint's distilled guidance, which "
           "has another time embedding). Use a SANA or SANA-1.5 model.");
  }
  if (qk_norm && *qk_norm != kRmsNormAcrossHeads && *qk_norm != kLayerNormAcrossHeads &&
      *qk_norm != kL2Norm) {
    refuse("qk_norm",
           fmt::format("qk_norm = \"{}\" is not supported (diffusers has no norm of that name, or "
                       "one of a head's width that it cannot apply here). Use none, \"{}\", \"{}\" "
                       "or \"{}\".",
                       *qk_norm, kRmsNormAcrossHeads, kLayerNormAcrossHeads, kL2Norm));
  }
  if (!num_cross_attention_heads || !cross_attention_head_dim || !cross_attention_dim) {
    refuse(
        "cross_attention_dim",
        "num_cross_attention_heads, cross_attention_head_dim and cross_attention_dim must all be "
        "set (a Sana block always attends to the text). Give numbers for all three.");
  } else if (*cross_attention_dim != inner_dim()) {
    refuse("cross_attention_dim",
           fmt::format(
               "cross_attention_dim = {} differs from num_attention_heads x attention_head_dim "
               "= {} x {} = {} (the text is projected to the model's width). Set it to {}.",
               *cross_attention_dim, num_attention_heads, attention_head_dim, inner_dim(),
               inner_dim()));
  }
  if (interpolation_scale && inner_dim() % 4 != 0) {
    refuse(
        "interpolation_scale",
        fmt::format("interpolation_scale needs a width divisible by 4 (2-D sine-cosine positions), "
                    "not {}. Change the heads, or set interpolation_scale = \"none\".",
                    inner_dim()));
  }
  return found;
}

SanaConfig config_from_json(std::string_view text, const std::string& name) {
  return fields_of<SanaConfig>(config_object(text, name), name,
                               {"diffusers' SanaTransformer2DModel"});
}

}  // namespace trestle::models::sana
