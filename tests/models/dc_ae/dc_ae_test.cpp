// What needs no reference: reading configurations, refusals, tiles, devices. Numbers are the
// oracle's.
#include "base/error.h"
#include "models/dc_ae/autoencoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>

namespace trestle::models::dc_ae {
namespace {

DcAeConfig tiny() {
  return config_from_json(R"({
    "latent_channels": 4, "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 16], "decoder_block_out_channels": [8, 16],
    "encoder_layers_per_block": [1, 1], "decoder_layers_per_block": [1, 1],
    "encoder_qkv_multiscales": [[], [5]], "decoder_qkv_multiscales": [[], [5]]})",
                          "config.json");
}

struct Codec {
  explicit Codec(const DcAeConfig& config, const at::TensorOptions& options = at::kFloat)
      : parameters(options, Draws(1)), model(config, parameters.root()) {}

  nn::Parameters parameters;
  AutoencoderDc model;
};

at::Tensor pictures(std::int64_t height, std::int64_t width) {
  return Draws(2).normal(Purpose("pictures"), {2, 3, height, width}, at::TensorOptions(at::kFloat));
}

double furthest(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

std::string error_of(const std::function<void()>& act, ExitCode code) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "";
}

TEST(DcAeConfig, OneStringStandsForAllResolutions) {
  const auto config = config_from_json(
      R"({"_class_name": "AutoencoderDC", "encoder_block_out_channels": [8, 8, 8],
          "encoder_block_types": "EfficientViTBlock", "decoder_act_fns": ["relu", "gelu"],
          "encoder_qkv_multiscales": [[], [3, 5], [7]], "scaling_factor": 0.41407})",
      "config.json");
  EXPECT_EQ(config.encoder.block_types, std::vector<std::string>(3, "EfficientViTBlock"));
  EXPECT_EQ(config.decoder.block_types, std::vector<std::string>(6, "ResBlock"));
  EXPECT_EQ(config.decoder_act_fns, (std::vector<std::string>{"relu", "gelu"}));
  EXPECT_EQ(config.encoder.qkv_multiscales,
            (std::vector<std::vector<std::int64_t>>{{}, {3, 5}, {7}}));
  EXPECT_EQ(config.decoder.qkv_multiscales, DcAeConfig().decoder.qkv_multiscales);
  EXPECT_EQ(config.scaling_factor, 0.41407);
  EXPECT_EQ(config.compression(), 4);
}

TEST(DcAeConfig, DefaultsAreSupported) {
  EXPECT_TRUE(DcAeConfig().refusals().empty());
  EXPECT_TRUE(config_from_json("{}", "config.json").refusals().empty());
}

TEST(DcAeConfig, MalformedFilesAreErrors) {
  const auto said = [](const std::string& text) {
    return error_of([&] { config_from_json(text, "vae/config.json"); }, ExitCode::data);
  };
  for (const auto& [text, words] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", "this is no JSON object"},
           {R"({"in_channels": 3, "in_channels": 3})", "appears twice"},
           {R"({"encoder_qkv_multiscales": [[5.5]]})", "encoder_qkv_multiscales"},
           {R"({"decoder_qkv_multiscales": 5})", "decoder_qkv_multiscales"},
           {R"({"encoder_block_types": [3]})", "encoder_block_types"},
           {R"({"decoder_act_fns": [null]})", "decoder_act_fns"},
           {R"({"encoder_layers_per_block": [1000000000]})", "encoder_layers_per_block"},
           {R"({"scaling_factor": 0})", "scaling_factor"}}) {
    EXPECT_NE(said(text).find("vae/config.json"), std::string::npos) << text;
    EXPECT_NE(said(text).find(words), std::string::npos) << said(text);
  }
}

TEST(DcAeConfig, RefusalsNameTheField) {
  const auto refused = [](const std::function<void(DcAeConfig&)>& change) {
    auto config = tiny();
    change(config);
    return error_of([&] { require_supported(config, "here"); }, ExitCode::usage);
  };
  EXPECT_EQ(refused([](auto&) {}), "");
  const std::vector<std::pair<std::function<void(DcAeConfig&)>, std::string>> cases = {
      {[](auto& c) { c.encoder.layers_per_block.pop_back(); }, "layers_per_block has 1 entries"},
      {[](auto& c) { c.encoder.layers_per_block[1] = 0; }, "encoder_layers_per_block[1] = 0"},
      {[](auto& c) { c.decoder.qkv_multiscales[1][0] = 4; }, "decoder_qkv_multiscales[1]"},
      {[](auto& c) { c.encoder.block_out_channels.clear(); }, "block_out_channels is empty"},
      {[](auto& c) { c.encoder.block_out_channels.resize(90, 8); }, "has 90 entries"},
      {[](auto& c) { c.encoder.block_out_channels[1] = 20; }, "encoder_block_out_channels"},
      {[](auto& c) { c.decoder.block_out_channels[1] = 20; }, "decoder_block_out_channels"},
      {[](auto& c) { c.attention_head_dim = 17; }, "attention_head_dim = 17"},
      {[](auto& c) { c.latent_channels = 5; }, "encoder_out_shortcut"},
      {[](auto& c) { c.encoder.block_types[0] = "Block"; }, "encoder_block_types[0] = \"Block\""},
      {[](auto& c) { c.decoder_norm_types = {"rms_norm"}; }, "decoder_norm_types has 1 entries"},
      {[](auto& c) { c.decoder_norm_types[1] = "batch_norm"; }, "\"batch_norm\""},
      {[](auto& c) { c.decoder_conv_act_fn = "relu6"; }, "decoder_conv_act_fn"},
      {[](auto& c) { c.upsample_block_type = "bilinear"; }, "upsample_block_type"},
      {[](auto& c) { c.downsample_block_type = "pool"; }, "downsample_block_type"}};
  for (const auto& [change, words] : cases) {
    EXPECT_NE(refused(change).find(words), std::string::npos) << words << ": " << refused(change);
  }
}

TEST(DcAe, MetaModelGivesShapes) {
  const Codec meta(tiny(), at::TensorOptions(at::kMeta));
  const at::Tensor x = at::empty({2, 3, 12, 6}, at::TensorOptions(at::kMeta));
  const at::Tensor latents = meta.model.encode(x);
  EXPECT_EQ(latents.sizes(), (std::vector<std::int64_t>{2, 4, 6, 3}));
  EXPECT_EQ(meta.model.decode(latents).sizes(), x.sizes());
}

TEST(DcAe, MemoryLayoutOfTheInputDoesNotMatter) {
  const Codec codec(tiny());
  const at::Tensor x = pictures(8, 6);
  EXPECT_LT(furthest(codec.model.encode(x.contiguous(at::MemoryFormat::ChannelsLast)),
                     codec.model.encode(x)),
            1e-6);
  EXPECT_TRUE(codec.model.encode(x).is_contiguous());
}

TEST(DcAe, SidesMustBeMultiples) {
  const Codec codec(tiny());
  const auto said = error_of([&] { codec.model.encode(pictures(8, 7)); }, ExitCode::data);
  EXPECT_NE(said.find("8 x 7 pixels cannot be encoded"), std::string::npos) << said;
}

TEST(DcAeTiling, TilesOfThemselvesArePutTogetherAgain) {
  const Tiling grid = {.tile_height = 4, .tile_width = 5, .stride_height = 3, .stride_width = 2};
  const auto same = [](const at::Tensor& tile) { return tile; };
  for (const auto& [height, width] : {std::pair{4, 5}, {5, 6}, {11, 13}, {1, 9}, {9, 1}}) {
    const at::Tensor x = pictures(height, width);
    const at::Tensor joined = map_tiles(x, grid, grid, same);
    ASSERT_EQ(joined.sizes(), x.sizes());
    EXPECT_LT(furthest(joined, x), 1e-6);
  }
}

TEST(DcAeTiling, OverlapsAreBlendedFromTheFirstToTheSecond) {
  const Tiling grid = {.tile_height = 4, .tile_width = 1, .stride_height = 2, .stride_width = 1};
  double value = 0;
  const auto counted = [&](const at::Tensor& tile) { return at::full_like(tile, value++); };
  const at::Tensor x = at::zeros({1, 1, 4, 1});
  const at::Tensor joined = map_tiles(x, grid, grid, counted).flatten();
  // The first tile is kept up to its stride; over two rows the second (of 1s) takes its place.
  EXPECT_TRUE(at::equal(joined, at::tensor({0.0f, 0.0f, 0.0f, 0.5f}))) << joined;
}

TEST(DcAeTiling, OneTileIsTheWholePicture) {
  const Codec codec(tiny());
  const at::Tensor x = pictures(8, 6), latents = codec.model.encode(x);
  EXPECT_TRUE(at::equal(codec.model.encode(x, Tiling{}), latents));
  EXPECT_TRUE(at::equal(codec.model.decode(latents, Tiling{}), codec.model.decode(latents)));
}

TEST(DcAeTiling, GradientsPassThrough) {
  const Codec codec(tiny());
  const at::Tensor x = pictures(9, 7).requires_grad_(true);
  const Tiling grid = {.tile_height = 4, .tile_width = 4, .stride_height = 2, .stride_width = 4};
  const at::Tensor latents = codec.model.encode(x, grid);
  EXPECT_EQ(latents.sizes(), (std::vector<std::int64_t>{2, 4, 4, 3}));
  latents.sum().backward();
  EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>());
  EXPECT_GT(x.grad().abs().max().item<double>(), 0);
}

TEST(DcAeTiling, UnsoundGridsAreRefused) {
  const auto said = [](const Tiling& tiling, std::int64_t compression) {
    return error_of([&] { require_sound(tiling, compression); }, ExitCode::usage);
  };
  EXPECT_EQ(said({}, 32), "");
  EXPECT_NE(said({}, 128).find("stride_height = 448 are not multiples of 128"), std::string::npos);
  EXPECT_NE(said({.tile_width = 64}, 32).find("tile_width = 64 with stride_width = 448"),
            std::string::npos);
  EXPECT_NE(said({.stride_height = 0}, 32).find("stride_height = 0"), std::string::npos);
}

}  // namespace
}  // namespace trestle::models::dc_ae
