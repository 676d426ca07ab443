// What needs no reference: names, refusals, causality, devices. Numbers are the oracle's.
#include "base/error.h"
#include "base/files.h"
#include "models/gemma2/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <sstream>

namespace trestle::models::gemma2 {
namespace {

Gemma2Config tiny() {
  return config_from_json(R"({
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "sliding_window": 3})",
                          "config.json");
}

struct Encoder {
  explicit Encoder(const Gemma2Config& config, const at::TensorOptions& options = at::kFloat)
      : parameters(options, Draws(1)), model(config, parameters.root()) {}

  nn::Parameters parameters;
  Gemma2Model model;
};

at::Tensor ids(std::int64_t tokens) {
  return at::arange(2 * tokens, at::TensorOptions(at::kLong)).view({2, tokens}) % 29 + 1;
}

TEST(Gemma2Config, LayersSlideByTurnsUnlessSaid) {
  auto config = tiny();
  EXPECT_TRUE(config.slides(0));
  EXPECT_FALSE(config.slides(1));
  config.layer_types = {"full_attention", "sliding_attention"};
  EXPECT_FALSE(config.slides(0));
  EXPECT_TRUE(config.slides(1));
}

TEST(Gemma2Config, RotaryBaseHasThreeNames) {
  const auto theta = [](const std::string& text) {
    return config_from_json(text, "config.json").rope_theta;
  };
  EXPECT_EQ(theta("{}"), 10000.0);
  EXPECT_EQ(theta(R"({"rope_theta": 500})"), 500.0);
  EXPECT_EQ(theta(R"({"rope_parameters": {"rope_theta": 7.5}})"), 7.5);
  EXPECT_EQ(theta(R"({"rope_theta": 5, "rope_parameters": {"rope_theta": 7.5}})"), 7.5);
  EXPECT_EQ(theta(R"({"rope_theta": 5, "rope_scaling": {"type": "default"}})"), 5.0);
}

TEST(Gemma2, TokensLookBackOnly) {
  const Encoder encoder(tiny());
  const at::Tensor before = encoder.model(ids(7));
  at::Tensor changed = ids(7).clone();
  changed.select(1, 5).fill_(3);
  const at::Tensor after = encoder.model(changed);
  EXPECT_TRUE(at::allclose(after.slice(1, 0, 5), before.slice(1, 0, 5), 0, 1e-6));
  EXPECT_GT((after.select(1, 5) - before.select(1, 5)).abs().max().item<double>(), 1e-3);
}

TEST(Gemma2, PaddingOnTheRightChangesNothingBefore) {
  const Encoder encoder(tiny());
  const at::Tensor alone = encoder.model(ids(5));
  const at::Tensor padded = at::constant_pad_nd(ids(5), {0, 4}, 0);
  const at::Tensor mask = at::constant_pad_nd(at::ones_like(ids(5)), {0, 4}, 0);
  EXPECT_TRUE(at::allclose(encoder.model(padded, mask).slice(1, 0, 5), alone, 0, 1e-6));
}

TEST(Gemma2, ATokenThatSeesNothingIsNoNan) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const Encoder encoder(tiny(), dtype);
    at::Tensor mask = at::ones_like(ids(7));
    mask.slice(1, 0, 4).zero_();
    EXPECT_TRUE(at::isfinite(encoder.model(ids(7), mask)).all().item<bool>()) << dtype;
  }
}

TEST(Gemma2, RotaryAnglesAreExactInBf16) {
  auto config = tiny();
  config.head_dim = 256;
  const std::int64_t tokens = 600;
  const Rotation wide(config, tokens, at::TensorOptions(at::kFloat));
  const Rotation narrow(config, tokens, at::TensorOptions(at::kBFloat16));
  // Half a bf16 rounding of a cosine; frequencies rounded to bf16 would be off by more than 1.
  EXPECT_LE((narrow.cosines.to(at::kFloat) - wide.cosines).abs().max().item<double>(), 0x1p-9);
  EXPECT_LE((narrow.sines.to(at::kFloat) - wide.sines).abs().max().item<double>(), 0x1p-9);
}

TEST(Gemma2, MetaModelGivesShapes) {
  const Encoder meta(tiny(), at::TensorOptions(at::kMeta));
  const at::Tensor out =
      meta.model(at::empty({2, 5}, at::TensorOptions(at::kLong).device(at::kMeta)));
  EXPECT_TRUE(out.is_meta());
  EXPECT_EQ(out.sizes(), (std::vector<std::int64_t>{2, 5, 16}));
}

TEST(Gemma2, IdsOutsideTheVocabularyAreAnError) {
  const Encoder encoder(tiny());
  try {
    encoder.model(at::full({1, 2}, 30, at::TensorOptions(at::kLong)));
    FAIL() << "30 of 30 tokens was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("token id 30"), std::string::npos) << error.what();
  }
}

TEST(Gemma2, StoredNamesFillParameters) {
  std::istringstream table(
      read_text_file(std::string(TRESTLE_TEST_DATA) + "/models/gemma2/keys_gemma2_2b.tsv", 1 << 20,
                     ExitCode::data));
  int lines = 0;
  for (std::string line; std::getline(table, line); ++lines) {
    const std::string name = line.substr(0, line.find('\t'));
    EXPECT_EQ(reference_name(name), name);
    EXPECT_EQ(reference_name("model." + name), name);
  }
  EXPECT_EQ(lines, 288);
  EXPECT_FALSE(reference_name("lm_head.weight").has_value());
}

}  // namespace
}  // namespace trestle::models::gemma2
