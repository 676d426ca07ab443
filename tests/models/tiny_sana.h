// A Sana of a few thousand parameters, for tests.
#pragma once
#include "models/sana/transformer.h"

#include <ATen/ATen.h>

namespace trestle::testing {

inline models::sana::SanaConfig tiny_sana() {
  models::sana::SanaConfig config;
  config.in_channels = 12;
  config.out_channels = 12;
  config.num_attention_heads = 2;
  config.attention_head_dim = 8;
  config.num_layers = 2;
  config.num_cross_attention_heads = 2;
  config.cross_attention_head_dim = 8;
  config.cross_attention_dim = 16;
  config.caption_channels = 6;
  config.sample_size = 4;
  config.qk_norm = "rms_norm_across_heads";
  return config;
}

struct SanaModel {
  explicit SanaModel(const models::sana::SanaConfig& config,
                     const at::TensorOptions& options = at::TensorOptions().dtype(at::kFloat))
      : parameters(options, Draws(1)), model(config, parameters.root()) {}
  models::nn::Parameters parameters;
  models::sana::SanaTransformer model;
};

}  // namespace trestle::testing
