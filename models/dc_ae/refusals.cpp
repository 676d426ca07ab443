// What a DC-AE configuration may not say, each with the reason.
#include "models/dc_ae/blocks.h"
#include "models/dc_ae/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trestle::models::dc_ae {
namespace {

using Refusals = std::vector<Refusal>;
using Half = DcAeConfig::Half;

constexpr std::size_t kMostLevels = 12;

void refuse(Refusals& found, std::string field, std::string message) {
  found.push_back({std::move(field), std::move(message)});
}

/// Whether the four lists of a half belong together; the other checks need that.
bool lists_fit(Refusals& found, const std::string& side, const Half& half) {
  const std::size_t before = found.size(), levels = half.block_out_channels.size();
  if (levels == 0) {
    refuse(
        found, side + "_block_out_channels",
        fmt::format("{}_block_out_channels is empty (one entry a resolution). Give the channels.",
                    side));
    return false;
  }
  if (levels > kMostLevels) {
    refuse(found, side + "_block_out_channels",
           fmt::format("{}_block_out_channels has {} entries (a latent pixel would stand for more "
                       "than {} picture pixels a side). Give at most {}.",
                       side, levels, 1 << (kMostLevels - 1), kMostLevels));
    return false;
  }
  const auto check = [&](const char* list, std::size_t size) {
    if (size == levels) return;
    refuse(found, fmt::format("{}_{}", side, list),
           fmt::format("{0}_{1} has {2} entries and {0}_block_out_channels {3} (one a resolution). "
                       "Make them as many.",
                       side, list, size, levels));
  };
  check("block_types", half.block_types.size());
  check("layers_per_block", half.layers_per_block.size());
  check("qkv_multiscales", half.qkv_multiscales.size());
  return found.size() == before;
}

void check_layers(Refusals& found, const std::string& side, const Half& half) {
  if (half.levels() == 1 && half.skips_finest()) {
    refuse(found, side + "_layers_per_block",
           fmt::format("{}_layers_per_block = [0] leaves no block at all. Give it a layer.", side));
  }
  for (std::int64_t i = 1; i < half.levels(); ++i) {
    if (half.layers_per_block[i] > 0) continue;
    refuse(
        found, side + "_layers_per_block",
        fmt::format("{}_layers_per_block[{}] = 0 is not supported (diffusers then leaves out the "
                    "resampling, too; only the first may be 0, as in DC-AE-Lite). Give it a "
                    "layer.",
                    side, i));
  }
}

void check_blocks(Refusals& found, const std::string& side, const Half& half,
                  std::int64_t head_dim) {
  for (std::int64_t i = 0; i < half.levels(); ++i) {
    const auto& type = half.block_types[i];
    const std::string at = fmt::format("{}_block_types[{}]", side, i);
    if (type != "ResBlock" && type != "EfficientViTBlock") {
      refuse(found, at,
             fmt::format("{} = \"{}\" is not supported (diffusers knows no such block). Use "
                         "\"ResBlock\" or \"EfficientViTBlock\".",
                         at, type));
    }
    if (type != "EfficientViTBlock" || half.layers_per_block[i] == 0) continue;
    if (half.block_out_channels[i] < head_dim) {
      refuse(found, "attention_head_dim",
             fmt::format("attention_head_dim = {} is more than the {} channels of "
                         "{}_block_out_channels[{}] (no head fits). Lower it.",
                         head_dim, half.block_out_channels[i], side, i));
    }
    for (const auto kernel : half.qkv_multiscales[i]) {
      if (kernel % 2 == 1) continue;
      refuse(found, side + "_qkv_multiscales",
             fmt::format("{}_qkv_multiscales[{}] has an even kernel size {} (its result is larger "
                         "than the picture). Use odd ones.",
                         side, i, kernel));
    }
  }
}

/// A shortcut averages or repeats whole channels, so one count must divide the other.
void check_divides(Refusals& found, const std::string& field, std::int64_t whole, std::int64_t part,
                   const std::string& what) {
  if (part > 0 && whole % part == 0) return;
  refuse(found, field,
         fmt::format("{} does not fit: {} needs {} to be a multiple of {}. Change the channels.",
                     field, what, whole, part));
}

void check_encoder(Refusals& found, const DcAeConfig& config) {
  const auto& channels = config.encoder.block_out_channels;
  const std::string field = "encoder_block_out_channels";
  const std::int64_t first = config.encoder.skips_finest() ? 1 : 0;
  for (std::int64_t i = first; i + 1 < config.encoder.levels(); ++i) {
    check_divides(found, field, 4 * channels[i], channels[i + 1],
                  fmt::format("the shortcut from {} to {} channels", channels[i], channels[i + 1]));
  }
  if (config.unshuffles()) {
    for (std::int64_t i = 1; i < config.encoder.levels(); ++i) {
      check_divides(found, field, channels[i], 4, "downsample_block_type = \"pixel_unshuffle\"");
    }
  }
  if (config.encoder_out_shortcut) {
    check_divides(
        found, field, channels.back(), config.latent_channels,
        fmt::format("encoder_out_shortcut with latent_channels = {}", config.latent_channels));
  }
}

void check_decoder(Refusals& found, const DcAeConfig& config) {
  const auto& channels = config.decoder.block_out_channels;
  const std::string field = "decoder_block_out_channels";
  const std::int64_t first = config.decoder.skips_finest() ? 1 : 0;
  for (std::int64_t i = first; i + 1 < config.decoder.levels(); ++i) {
    check_divides(found, field, 4 * channels[i], channels[i + 1],
                  fmt::format("the shortcut from {} to {} channels", channels[i + 1], channels[i]));
  }
  if (config.decoder_in_shortcut) {
    check_divides(
        found, field, channels.back(), config.latent_channels,
        fmt::format("decoder_in_shortcut with latent_channels = {}", config.latent_channels));
  }

  const auto levels = config.decoder.block_out_channels.size();
  const auto check_size = [&](const char* list, std::size_t size) {
    if (size == levels) return;
    refuse(found, list,
           fmt::format("{} has {} entries and decoder_block_out_channels {} (one a resolution). "
                       "Make them as many.",
                       list, size, levels));
  };
  check_size("decoder_norm_types", config.decoder_norm_types.size());
  check_size("decoder_act_fns", config.decoder_act_fns.size());
}

void check_words(Refusals& found, const DcAeConfig& config) {
  for (const auto& norm : config.decoder_norm_types) {
    if (norm == "rms_norm") continue;
    const bool known = norm == "batch_norm" || norm == "layer_norm";
    refuse(found, "decoder_norm_types",
           fmt::format("decoder_norm_types has \"{}\", which is not supported ({}). Use "
                       "\"rms_norm\".",
                       norm,
                       known ? "diffusers knows it, no released DC-AE uses it"
                             : "diffusers knows no such norm"));
  }
  const auto check_activation = [&](const char* field, const std::string& name) {
    if (activation_named(name)) return;
    refuse(found, field,
           fmt::format("{} names the activation \"{}\" (diffusers knows silu, swish, relu, gelu "
                       "and mish). Use one of these.",
                       field, name));
  };
  for (const auto& name : config.decoder_act_fns) check_activation("decoder_act_fns", name);
  check_activation("decoder_conv_act_fn", config.decoder_conv_act_fn);

  const auto check_resampling = [&](const char* field, const std::string& said,
                                    std::initializer_list<const char*> known) {
    for (const auto* word : known) {
      if (said == word) return;
    }
    refuse(found, field,
           fmt::format("{} = \"{}\" is not supported (diffusers would take it for \"{}\" without a "
                       "word). Use one of {}.",
                       field, said, *(known.end() - 1), fmt::join(known, ", ")));
  };
  check_resampling("downsample_block_type", config.downsample_block_type,
                   {"pixel_unshuffle", "Conv", "conv"});
  check_resampling("upsample_block_type", config.upsample_block_type,
                   {"interpolate", "pixel_shuffle"});
}

}  // namespace

Refusals DcAeConfig::refusals() const {
  Refusals found;
  check_words(found, *this);
  const bool encoder_fits = lists_fit(found, "encoder", encoder);
  const bool decoder_fits = lists_fit(found, "decoder", decoder);
  if (!encoder_fits || !decoder_fits) return found;
  if (encoder.levels() != decoder.levels()) {
    refuse(
        found, "decoder_block_out_channels",
        fmt::format("decoder_block_out_channels has {} entries and encoder_block_out_channels {} "
                    "(the decoder would not give pictures of their size back). Make them as "
                    "many.",
                    decoder.levels(), encoder.levels()));
  }
  check_layers(found, "encoder", encoder);
  check_layers(found, "decoder", decoder);
  if (!found.empty()) return found;
  check_blocks(found, "encoder", encoder, attention_head_dim);
  check_blocks(found, "decoder", decoder, attention_head_dim);
  check_encoder(found, *this);
  check_decoder(found, *this);
  return found;
}

}  // namespace trestle::models::dc_ae
