// The configuration of diffusers' SanaTransformer2DModel: every registered field, under its name.
// LOCAL, a plain value.
#pragma once
#include "configs/describe.h"
#include "models/refusal.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::sana {

/// The words of qk_norm, diffusers'.
inline constexpr std::string_view kRmsNormAcrossHeads = "rms_norm_across_heads";
inline constexpr std::string_view kLayerNormAcrossHeads = "layer_norm_across_heads";
inline constexpr std::string_view kL2Norm = "l2";

/// Defaults are diffusers'. `config_from_json` reads a config.json of the library as it is.
struct SanaConfig {
  std::int64_t in_channels = 32;
  std::optional<std::int64_t> out_channels = 32;  ///< none: in_channels
  std::int64_t num_attention_heads = 70;
  std::int64_t attention_head_dim = 32;
  std::int64_t num_layers = 20;
  std::optional<std::int64_t> num_cross_attention_heads = 20;
  std::optional<std::int64_t> cross_attention_head_dim = 112;
  std::optional<std::int64_t> cross_attention_dim = 2240;
  std::int64_t caption_channels = 2304;
  double mlp_ratio = 2.5;
  double dropout = 0.0;
  bool attention_bias = false;
  std::int64_t sample_size = 32;
  std::int64_t patch_size = 1;
  bool norm_elementwise_affine = false;
  double norm_eps = 1e-6;
  std::optional<double> interpolation_scale;
  bool guidance_embeds = false;
  double guidance_embeds_scale = 0.1;
  std::optional<std::string> qk_norm;
  double timestep_scale = 1.0;  ///< a factor on the timestep; the caller of the model applies it

  void describe(configs::Fields& fields);

  /// What this implementation (and, for most, diffusers itself) cannot run: one (field, sentence)
  /// each, empty when the configuration is fine.
  std::vector<Refusal> refusals() const;

  std::int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
  std::int64_t output_channels() const { return out_channels.value_or(in_channels); }
  std::int64_t mlp_hidden() const {
    return static_cast<std::int64_t>(mlp_ratio * double(inner_dim()));
  }
  bool has_qk_norm() const { return qk_norm.has_value(); }
};

/// `name` is said in errors. Keys that the library does not register are warned of. Throws
/// Error(data) for what is not such a file; `refusals()` says what is one and cannot be run.
SanaConfig config_from_json(std::string_view text, const std::string& name);

}  // namespace trestle::models::sana
