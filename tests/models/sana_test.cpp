// What needs no reference: shapes, refusals, dropout and the codec. Numbers are the oracle's.
#include "base/error.h"
#include "models/pixels/codec.h"
#include "tests/models/tiny_sana.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::models {
namespace {

using Model = testing::SanaModel;
constexpr auto tiny = testing::tiny_sana;

sana::SanaInput input(std::int64_t batch, std::int64_t height, std::int64_t width) {
  const Draws draws(2);
  const auto options = at::TensorOptions().dtype(at::kFloat);
  return {.latents_bchw = draws.normal(Purpose("x"), {batch, 12, height, width}, options),
          .text_blc = draws.normal(Purpose("t"), {batch, 5, 6}, options),
          .timestep_b = at::linspace(1, 900, batch)};
}

std::string refusal(const sana::SanaConfig& config) {
  try {
    require_supported(config, "here");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(Sana, PredictsAtEveryShape) {
  const Model m(tiny());
  for (const auto& [height, width] : {std::pair{4, 4}, {3, 7}, {1, 1}}) {
    const at::Tensor out = m.model(input(2, height, width));
    EXPECT_EQ(out.sizes(), (std::vector<std::int64_t>{2, 12, height, width}));
    EXPECT_TRUE(at::isfinite(out).all().item<bool>());
  }
}

TEST(Sana, RowsDoNotMix) {
  const Model m(tiny());
  auto both = input(2, 4, 3);
  const at::Tensor out = m.model(both);
  const at::Tensor alone = m.model({.latents_bchw = both.latents_bchw.slice(0, 1),
                                    .text_blc = both.text_blc.slice(0, 1),
                                    .timestep_b = both.timestep_b.slice(0, 1)});
  EXPECT_LT((out[1] - alone[0]).abs().max().item<float>(), 1e-5f);
}

TEST(Sana, PaddedTextRowsDoNotCount) {
  const Model m(tiny());
  auto in = input(1, 4, 3);
  in.text_mask_bl = at::tensor({1, 1, 1, 0, 0}).unsqueeze(0);
  const at::Tensor masked = m.model(in);
  in.text_blc.slice(1, 3).fill_(3.0);
  EXPECT_LT((m.model(in) - masked).abs().max().item<float>(), 1e-5f);
  in.text_mask_bl = at::Tensor();
  EXPECT_GT((m.model(in) - masked).abs().max().item<float>(), 1e-4f);
}

TEST(Sana, PaddedTextRowsMayBeLeftOut) {
  // The mask is a finite bias (-9984 in bf16), so that leaving rows out is the same is a claim.
  for (const auto& [dtype, bound] : {std::pair{at::kFloat, 1e-6}, {at::kBFloat16, 2e-2}}) {
    const Model m(tiny(), at::TensorOptions(dtype));
    auto in = input(1, 4, 3);
    in.latents_bchw = in.latents_bchw.to(dtype);
    in.text_blc = in.text_blc.to(dtype);
    in.text_mask_bl = at::tensor({1, 1, 1, 0, 0}).unsqueeze(0);
    const at::Tensor masked = m.model(in).to(at::kFloat);
    in.text_blc = in.text_blc.slice(1, 0, 3);
    in.text_mask_bl = at::Tensor();
    const at::Tensor left_out = m.model(in).to(at::kFloat);
    const auto off = (left_out - masked).abs().max() / masked.abs().max();
    EXPECT_LE(off.item<double>(), bound) << dtype;
  }
}

TEST(Sana, MetaModelHasNamesAndNoMemory) {
  const Model real(tiny()), meta(tiny(), at::TensorOptions(at::kMeta));
  ASSERT_EQ(real.parameters.all().size(), meta.parameters.all().size());
  for (std::size_t i = 0; i < real.parameters.all().size(); ++i) {
    EXPECT_EQ(real.parameters.all()[i].name, meta.parameters.all()[i].name);
    EXPECT_TRUE(meta.parameters.all()[i].tensor.is_meta());
  }
}

TEST(Sana, InitialWeightsBelongToNames) {
  auto deeper = tiny();
  deeper.num_layers = 3;
  const Model two(tiny()), three(deeper);
  for (const auto& parameter : two.parameters.all()) {
    EXPECT_TRUE(at::equal(parameter.tensor, three.parameters.find(parameter.name)))
        << parameter.name;
  }
}

TEST(Sana, DropoutBelongsToSamplesAndKeepsTheMean) {
  auto config = tiny();
  config.dropout = 0.5;
  const Model m(config);
  const Draws draws(3);
  const std::vector<Position> some = {{4}, {9}}, swapped = {{9}, {4}};
  auto in = input(1, 4, 3);
  in.latents_bchw = in.latents_bchw.expand({2, -1, -1, -1});
  in.text_blc = in.text_blc.expand({2, -1, -1});
  in.timestep_b = in.timestep_b.expand({2});
  const at::Tensor plain = m.model(in);
  const sana::DropoutDraws first{draws, some}, second{draws, swapped};
  in.dropout = &first;
  const at::Tensor a = m.model(in);
  in.dropout = &second;
  const at::Tensor b = m.model(in);
  EXPECT_GT((a - plain).abs().max().item<float>(), 1e-3f);
  EXPECT_LT((a[0] - b[1]).abs().max().item<float>(), 1e-5f);
  EXPECT_GT((a[0] - a[1]).abs().max().item<float>(), 1e-3f);
}

TEST(Sana, RefusalsNameTheField) {
  auto config = tiny();
  EXPECT_EQ(refusal(config), "");
  config.guidance_embeds = true;
  config.qk_norm = "rms_norm";
  config.cross_attention_dim = 20;
  const auto text = refusal(config);
  for (const auto* field :
       {"guidance_embeds", "qk_norm = \"rms_norm\"", "cross_attention_dim = 20"}) {
    EXPECT_NE(text.find(field), std::string::npos) << field << " in " << text;
  }
  config = tiny();
  for (const auto* runs : {"rms_norm_across_heads", "layer_norm_across_heads", "l2"}) {
    config.qk_norm = runs;
    EXPECT_EQ(refusal(config), "");
  }
}

TEST(Sana, WarnsOfBfloat16WithoutQkNorm) {
  auto config = tiny();
  EXPECT_EQ(sana::precision_warning(config, at::kBFloat16), "");
  config.qk_norm.reset();
  EXPECT_NE(sana::precision_warning(config, at::kBFloat16).find("model.qk_norm is none"),
            std::string::npos);
  EXPECT_EQ(sana::precision_warning(config, at::kFloat), "");
}

TEST(PixelCodec, IsExactlyInvertible) {
  const pixels::PixelCodec codec(4);
  const at::Tensor pictures = Draws(1).normal(Purpose("p"), {2, 3, 8, 12}, at::TensorOptions());
  const at::Tensor latents = codec.encode(pictures);
  EXPECT_EQ(latents.sizes(), (std::vector<std::int64_t>{2, codec.channels(), 2, 3}));
  EXPECT_TRUE(at::equal(codec.decode(latents), pictures));
}

}  // namespace
}  // namespace trestle::models
