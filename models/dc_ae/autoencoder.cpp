#include "models/dc_ae/autoencoder.h"

#include "base/error.h"

#include <ATen/ATen.h>

namespace trestle::models::dc_ae {
namespace {

at::Tensor run(const Layer& layer, const at::Tensor& x_bchw) {
  return std::visit([&](const auto& block) { return block(x_bchw); }, layer);
}

Shortcut shortcut_if(bool wanted) { return wanted ? Shortcut::yes : Shortcut::no; }

Layer make_block(const nn::Scope& scope, const DcAeConfig& config, const DcAeConfig::Half& half,
                 std::int64_t level, Activation activation) {
  const std::int64_t channels = half.block_out_channels[level];
  if (half.block_types[level] == "ResBlock") return ResBlock(scope, channels, activation);
  return EfficientVitBlock(scope, channels, config.attention_head_dim, half.qkv_multiscales[level]);
}

std::vector<Layer> make_encoder_layers(const nn::Scope& scope, const DcAeConfig& config) {
  const auto& half = config.encoder;
  const auto& channels = half.block_out_channels;
  std::vector<Layer> layers;
  if (half.skips_finest()) {
    layers.emplace_back(DownBlock(scope / "conv_in", config.in_channels, half.finest_channels(),
                                  config.unshuffles(), Shortcut::no));
  } else {
    layers.emplace_back(
        Conv(scope / "conv_in", {.in = config.in_channels, .out = half.finest_channels()}));
  }
  for (std::int64_t level = 0; level < half.levels(); ++level) {
    const nn::Scope at = scope / "down_blocks" / level;
    const std::int64_t blocks = half.layers_per_block[level];
    for (std::int64_t i = 0; i < blocks; ++i) {
      layers.push_back(make_block(at / i, config, half, level, Activation::silu));
    }
    if (blocks == 0 || level + 1 == half.levels()) continue;
    layers.emplace_back(DownBlock(at / blocks, channels[level], channels[level + 1],
                                  config.unshuffles(), Shortcut::yes));
  }
  return layers;
}

std::vector<std::vector<Layer>> make_up_blocks(const nn::Scope& scope, const DcAeConfig& config) {
  const auto& half = config.decoder;
  const auto& channels = half.block_out_channels;
  std::vector<std::vector<Layer>> up_blocks(half.levels());
  for (std::int64_t level = 0; level < half.levels(); ++level) {
    const nn::Scope at = scope / "up_blocks" / level;
    auto& layers = up_blocks[level];
    if (half.layers_per_block[level] == 0) continue;
    if (level + 1 < half.levels()) {
      layers.emplace_back(UpBlock(at / 0, channels[level + 1], channels[level],
                                  config.interpolates(), Shortcut::yes));
    }
    for (std::int64_t i = 0; i < half.layers_per_block[level]; ++i) {
      layers.push_back(make_block(at / std::int64_t(layers.size()), config, half, level,
                                  *activation_named(config.decoder_act_fns[level])));
    }
  }
  return up_blocks;
}

Layer make_decoder_end(const nn::Scope& scope, const DcAeConfig& config) {
  const std::int64_t channels = config.decoder.finest_channels();
  if (config.decoder.skips_finest()) {
    return UpBlock(scope, channels, config.in_channels, config.interpolates(), Shortcut::no);
  }
  return Conv(scope, {.in = channels, .out = config.in_channels});
}

/// Channels go last in memory, except in fp64: there the fp32 parts' sums are compared with a
/// reference that adds in the order of its own layout.
at::Tensor laid_out(const at::Tensor& x_bchw) {
  return x_bchw.scalar_type() == at::kDouble ? x_bchw
                                             : x_bchw.contiguous(at::MemoryFormat::ChannelsLast);
}

void require_channels(const at::Tensor& x_bchw, std::int64_t channels, const char* what) {
  TRESTLE_ASSERT(x_bchw.dim() == 4 && x_bchw.size(1) == channels,
                 "{} of shape [{}] are not [batch, {}, height, width]", what,
                 fmt::join(x_bchw.sizes(), ", "), channels);
}

}  // namespace

Encoder::Encoder(const nn::Scope& scope, const DcAeConfig& config)
    : layers(make_encoder_layers(scope, config)),
      conv_out(scope / "conv_out",
               {.in = config.encoder.block_out_channels.back(), .out = config.latent_channels}),
      out_shortcut(shortcut_if(config.encoder_out_shortcut)) {}

at::Tensor Encoder::operator()(const at::Tensor& pictures_bchw) const {
  at::Tensor x = pictures_bchw;
  for (const auto& layer : layers) x = run(layer, x);
  if (out_shortcut == Shortcut::no) return conv_out(x);
  return conv_out(x) + mean_channels(x, conv_out.shape.out);
}

Decoder::Decoder(const nn::Scope& scope, const DcAeConfig& config)
    : conv_in(scope / "conv_in",
              {.in = config.latent_channels, .out = config.decoder.block_out_channels.back()}),
      in_shortcut(shortcut_if(config.decoder_in_shortcut)),
      up_blocks(make_up_blocks(scope, config)),
      norm_out(scope / "norm_out", config.decoder.finest_channels()),
      conv_act(*activation_named(config.decoder_conv_act_fn)),
      conv_out(make_decoder_end(scope / "conv_out", config)) {}

at::Tensor Decoder::operator()(const at::Tensor& latents_bchw) const {
  at::Tensor x = conv_in(latents_bchw);
  if (in_shortcut == Shortcut::yes) {
    x = x + repeat_channels(latents_bchw, conv_in.shape.out / conv_in.shape.in);
  }
  for (auto layers = up_blocks.rbegin(); layers != up_blocks.rend(); ++layers) {
    for (const auto& layer : *layers) x = run(layer, x);
  }
  return run(conv_out, activate(conv_act, norm_out(x)));
}

AutoencoderDc::AutoencoderDc(const DcAeConfig& config, const nn::Scope& scope)
    : config_((require_supported(config, "DC-AE configuration"), config)),
      encoder_(scope / "encoder", config),
      decoder_(scope / "decoder", config) {}

at::Tensor AutoencoderDc::encode(const at::Tensor& pictures_bchw) const {
  require_channels(pictures_bchw, config_.in_channels, "pictures");
  const std::int64_t height = pictures_bchw.size(2), width = pictures_bchw.size(3);
  TRESTLE_REQUIRE_AS(data,
                     height > 0 && width > 0 && height % config_.compression() == 0 &&
                         width % config_.compression() == 0,
                     "pictures of {} x {} pixels cannot be encoded (the autoencoder makes a latent "
                     "pixel of {} x {}). Crop or scale them to multiples of {}.",
                     height, width, config_.compression(), config_.compression(),
                     config_.compression());
  return encoder_(laid_out(pictures_bchw)).contiguous();
}

at::Tensor AutoencoderDc::decode(const at::Tensor& latents_bchw) const {
  require_channels(latents_bchw, config_.latent_channels, "latents");
  return decoder_(laid_out(latents_bchw)).contiguous();
}

at::Tensor AutoencoderDc::encode(const at::Tensor& pictures_bchw, const Tiling& tiling) const {
  const std::int64_t ratio = config_.compression();
  require_sound(tiling, ratio);
  const std::int64_t height = pictures_bchw.size(2), width = pictures_bchw.size(3);
  if (!tiling.is_needed(height, width)) return encode(pictures_bchw);

  const auto encode_tile = [&](const at::Tensor& tile) {
    const std::int64_t below = (ratio - tile.size(2) % ratio) % ratio;
    const std::int64_t right = (ratio - tile.size(3) % ratio) % ratio;
    if (below == 0 && right == 0) return encode(tile);
    return encode(at::constant_pad_nd(tile, {0, right, 0, below}, 0.0));
  };
  return map_tiles(pictures_bchw, tiling, tiling.divided_by(ratio), encode_tile)
      .slice(2, 0, height / ratio)
      .slice(3, 0, width / ratio);
}

at::Tensor AutoencoderDc::decode(const at::Tensor& latents_bchw, const Tiling& tiling) const {
  require_sound(tiling, config_.compression());
  const Tiling in_latents = tiling.divided_by(config_.compression());
  if (!in_latents.is_needed(latents_bchw.size(2), latents_bchw.size(3))) {
    return decode(latents_bchw);
  }
  return map_tiles(latents_bchw, in_latents, tiling,
                   [&](const at::Tensor& tile) { return decode(tile); });
}

}  // namespace trestle::models::dc_ae
