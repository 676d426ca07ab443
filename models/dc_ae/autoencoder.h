// AutoencoderDC: pictures to latents of a 2^(levels - 1)th of their sides, and back, without a
// random step (Chen et al., "Deep Compression Autoencoder", 2024; diffusers' autoencoder_dc.py).
// SANA's latents are this encoder's times `scaling_factor`, which the caller applies.
//
//   nn::Parameters parameters(options, Draws(0));
//   const AutoencoderDc codec(config, parameters.root());
//   at::Tensor latents_bchw = codec.encode(pictures_bchw) * config.scaling_factor;
//   at::Tensor pictures = codec.decode(latents_bchw / config.scaling_factor);
//
// Axes: B batch, C channels, H W sides of pictures, h w of latents. Pictures are about -1 to 1.
// LOCAL. STREAM: the current one. THREADS: calls are const and may run at once.
#pragma once
#include "models/dc_ae/blocks.h"
#include "models/dc_ae/config.h"
#include "models/dc_ae/tiling.h"

#include <ATen/core/TensorBody.h>

#include <variant>
#include <vector>

namespace trestle::models::dc_ae {

using Layer = std::variant<Conv, ResBlock, EfficientVitBlock, DownBlock, UpBlock>;

struct Encoder {
  Encoder(const nn::Scope& scope, const DcAeConfig& config);
  at::Tensor operator()(const at::Tensor& pictures_bchw) const;

  std::vector<Layer> layers;  // conv_in, then all of down_blocks
  Conv conv_out;
  Shortcut out_shortcut;
};

struct Decoder {
  Decoder(const nn::Scope& scope, const DcAeConfig& config);
  at::Tensor operator()(const at::Tensor& latents_bchw) const;

  Conv conv_in;
  Shortcut in_shortcut;
  std::vector<std::vector<Layer>> up_blocks;  // by resolution, the finest first; run from the back
  ChannelNorm norm_out;
  Activation conv_act;
  Layer conv_out;
};

class AutoencoderDc {
 public:
  /// Adds all parameters to `scope`. Throws Error(usage) for configurations that are refused.
  AutoencoderDc(const DcAeConfig& config, const nn::Scope& scope);

  /// [B, in_channels, H, W] -> [B, latent_channels, H / compression, W / compression]. Sides must
  /// be multiples of the compression (Error(data)).
  at::Tensor encode(const at::Tensor& pictures_bchw) const;
  /// The way back.
  at::Tensor decode(const at::Tensor& latents_bchw) const;

  /// In tiles where the picture is larger than one. Sides need not be multiples then: what is
  /// missing of the last tiles is zeros, and incomplete latent pixels are left out.
  at::Tensor encode(const at::Tensor& pictures_bchw, const Tiling& tiling) const;
  at::Tensor decode(const at::Tensor& latents_bchw, const Tiling& tiling) const;

  const DcAeConfig& config() const { return config_; }

 private:
  DcAeConfig config_;
  Encoder encoder_;
  Decoder decoder_;
};

}  // namespace trestle::models::dc_ae
