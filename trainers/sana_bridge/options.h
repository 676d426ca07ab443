// The recipe sections of the task sana_bridge. LOCAL, plain values.
#pragma once
#include "configs/describe.h"
#include "configs/recipe.h"
#include "data/paired_pictures.h"
#include "models/nn/lora.h"
#include "models/sana/config.h"
#include "processes/brownian_bridge.h"

#include <ATen/core/TensorBody.h>

#include <string>

namespace trestle::trainers::sana_bridge {

struct BridgeOptions {  // [task]
  double noise_scale = 0.5;
  std::string codec = "pixels";
  std::int64_t codec_factor = 4;
  void describe(configs::Fields& fields);
};

struct ModelOptions : models::sana::SanaConfig {  // [model]
  std::string dtype = "float32";
  void describe(configs::Fields& fields);
  at::ScalarType scalar_type() const;
  /// Of the bridge and the loss: fp32 around a 16-bit model.
  at::ScalarType bridge_type() const { return dtype == "float64" ? at::kDouble : at::kFloat; }
};

struct LoraOptions : models::nn::LoraConfig {  // [lora]
  bool enabled = false;
  void describe(configs::Fields& fields);
};

struct Options {
  BridgeOptions bridge;
  ModelOptions model;
  LoraOptions lora;
  data::PairedPicturesOptions data;
  processes::BridgeSamplerOptions sampler;
  std::int64_t micro_batch = 1;
  std::int64_t checkpoint_every = 0;
  std::uint64_t seed = 0;
};

/// Reads the sections and refuses what does not fit together, with the place in the recipe.
Options read_options(const configs::Recipe& recipe);

}  // namespace trestle::trainers::sana_bridge
