#include "models/dc_ae/config.h"

#include "base/error.h"
#include "models/config_json.h"

#include <algorithm>

namespace trestle::models::dc_ae {
namespace {

using nlohmann::json;

// Far beyond any model: a file that says more is damaged, and products of these cannot overflow.
constexpr double kMostChannels = 1 << 20, kMostLayers = 1000;

/// diffusers takes one string for a list of equal ones.
void spread_string(json& object, const std::string& key, const char* fallback,
                   const std::string& channels_key) {
  const auto channels = object.find(channels_key);
  const std::size_t levels = channels != object.end() && channels->is_array()
                                 ? channels->size()
                                 : DcAeConfig::Half().block_out_channels.size();
  const json said = object.contains(key) ? object[key] : json(fallback);
  if (said.is_string()) object[key] = json(levels, said);
}

std::vector<std::vector<std::int64_t>> lists_of_integers(
    const json& lists, const std::string& key, const std::string& name,
    const std::vector<std::vector<std::int64_t>>& fallback) {
  if (lists.is_null()) return fallback;
  const auto is_fine = [](const json& list) {
    return list.is_array() && std::all_of(list.begin(), list.end(), [](const json& element) {
             return element.is_number_integer() && element > 0 && element < 1000;
           });
  };
  TRESTLE_REQUIRE_AS(data, lists.is_array() && std::all_of(lists.begin(), lists.end(), is_fine),
                     "{}: {} is not a list of lists of kernel sizes (wanted: one list a "
                     "resolution, such as [[], [5]]). Correct it or get the file again.",
                     name, key);
  return lists.get<std::vector<std::vector<std::int64_t>>>();
}

}  // namespace

void DcAeConfig::describe(configs::Fields& f) {
  f.field("in_channels", in_channels,
          {.help = "channels of a picture", .min = 1, .max = kMostChannels});
  f.field("latent_channels", latent_channels,
          {.help = "channels of the latents", .min = 1, .max = kMostChannels});
  f.field(
      "attention_head_dim", attention_head_dim,
      {.help = "channels of a head; a picture of no more pixels than this is attended to by the "
               "quadratic form",
       .min = 1,
       .max = kMostChannels});
  f.field("encoder_block_types", encoder.block_types,
          {.help = "kind of the encoder's blocks, by resolution: ResBlock or EfficientViTBlock"});
  f.field("decoder_block_types", decoder.block_types,
          {.help = "kind of the decoder's blocks, by resolution"});
  f.field("encoder_block_out_channels", encoder.block_out_channels,
          {.help = "the encoder's channels, by resolution, the finest first",
           .min = 1,
           .max = kMostChannels});
  f.field("decoder_block_out_channels", decoder.block_out_channels,
          {.help = "the decoder's channels, by resolution, the finest first",
           .min = 1,
           .max = kMostChannels});
  f.field("encoder_layers_per_block", encoder.layers_per_block,
          {.help = "the encoder's blocks, by resolution", .min = 0, .max = kMostLayers});
  f.field("decoder_layers_per_block", decoder.layers_per_block,
          {.help = "the decoder's blocks, by resolution", .min = 0, .max = kMostLayers});
  f.field("upsample_block_type", upsample_block_type,
          {.help = "how the decoder doubles sides: interpolate or pixel_shuffle"});
  f.field("downsample_block_type", downsample_block_type,
          {.help = "how the encoder halves sides: conv or pixel_unshuffle"});
  f.field("decoder_norm_types", decoder_norm_types,
          {.help = "norm of the decoder's blocks, by resolution: rms_norm"});
  f.field("decoder_act_fns", decoder_act_fns,
          {.help = "activation of the decoder's ResBlocks, by resolution"});
  f.field("encoder_out_shortcut", encoder_out_shortcut,
          {.help = "add channel means to the encoder's last convolution"});
  f.field("decoder_in_shortcut", decoder_in_shortcut,
          {.help = "add repeated channels to the decoder's first convolution"});
  f.field("decoder_conv_act_fn", decoder_conv_act_fn,
          {.help = "activation before the decoder's last convolution"});
  f.field("scaling_factor", scaling_factor,
          {.help = "latents times this are what a diffusion model sees", .above = 0});
}

DcAeConfig config_from_json(std::string_view text, const std::string& name) {
  json object = config_object(text, name);
  spread_string(object, "encoder_block_types", "ResBlock", "encoder_block_out_channels");
  spread_string(object, "decoder_block_types", "ResBlock", "decoder_block_out_channels");
  spread_string(object, "decoder_norm_types", "rms_norm", "decoder_block_out_channels");
  spread_string(object, "decoder_act_fns", "silu", "decoder_block_out_channels");
  const json encoder_scales = taken(object, "encoder_qkv_multiscales");
  const json decoder_scales = taken(object, "decoder_qkv_multiscales");

  auto config = fields_of<DcAeConfig>(object, name, {"diffusers' AutoencoderDC"});
  config.encoder.qkv_multiscales = lists_of_integers(encoder_scales, "encoder_qkv_multiscales",
                                                     name, config.encoder.qkv_multiscales);
  config.decoder.qkv_multiscales = lists_of_integers(decoder_scales, "decoder_qkv_multiscales",
                                                     name, config.decoder.qkv_multiscales);
  return config;
}

}  // namespace trestle::models::dc_ae
