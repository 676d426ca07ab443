// The configuration of diffusers' AutoencoderDC: every registered field, under its name.
// LOCAL, a plain value.
#pragma once
#include "configs/describe.h"
#include "models/refusal.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::dc_ae {

/// Defaults are diffusers'. `config_from_json` reads a config.json of the library as it is.
struct DcAeConfig {
  /// What the encoder and the decoder each have: one entry a resolution, the finest first.
  struct Half {
    std::vector<std::string> block_types = std::vector<std::string>(6, "ResBlock");
    std::vector<std::int64_t> block_out_channels = {128, 256, 512, 512, 1024, 1024};
    std::vector<std::int64_t> layers_per_block = {2, 2, 2, 3, 3, 3};
    std::vector<std::vector<std::int64_t>> qkv_multiscales = {{}, {}, {}, {5}, {5}, {5}};

    std::int64_t levels() const { return std::int64_t(block_out_channels.size()); }
    /// The finest resolution may have no blocks; then pictures are halved on the way in (and
    /// doubled on the way out) without them.
    bool skips_finest() const { return layers_per_block.front() == 0; }
    std::int64_t finest_channels() const { return block_out_channels[skips_finest() ? 1 : 0]; }
  };

  std::int64_t in_channels = 3;
  std::int64_t latent_channels = 32;
  std::int64_t attention_head_dim = 32;
  Half encoder;
  Half decoder = {.layers_per_block = {3, 3, 3, 3, 3, 3}};
  std::string upsample_block_type = "pixel_shuffle";
  std::string downsample_block_type = "pixel_unshuffle";
  std::vector<std::string> decoder_norm_types = std::vector<std::string>(6, "rms_norm");
  std::vector<std::string> decoder_act_fns = std::vector<std::string>(6, "silu");
  bool encoder_out_shortcut = true;
  bool decoder_in_shortcut = true;
  std::string decoder_conv_act_fn = "relu";
  double scaling_factor = 1.0;  ///< a factor on latents; the caller of the codec applies it

  /// All fields but the two qkv_multiscales, which are lists of lists.
  void describe(configs::Fields& fields);

  /// What this implementation (or diffusers itself) cannot run: one (field, sentence) each, empty
  /// when the configuration is fine.
  std::vector<Refusal> refusals() const;

  /// Picture pixels a side of a latent pixel.
  std::int64_t compression() const { return std::int64_t(1) << (encoder.levels() - 1); }
  bool interpolates() const { return upsample_block_type == "interpolate"; }
  bool unshuffles() const { return downsample_block_type == "pixel_unshuffle"; }
};

/// From the text of a config.json; `name` is the file's, for errors (Error(data)).
DcAeConfig config_from_json(std::string_view text, const std::string& name);

}  // namespace trestle::models::dc_ae
