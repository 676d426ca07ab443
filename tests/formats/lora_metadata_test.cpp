// The header and the names of LoRA files: all forms that are met, and what is refused by name.
#include "formats/lora_metadata.h"

#include "base/error.h"
#include "formats/lora_names.h"

#include <gtest/gtest.h>

namespace trestle::formats {
namespace {

std::string refusal(const std::string& text) {
  try {
    parse_lora_metadata(text, "it.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    return error.what();
  }
  return "";
}

/// A minimal header with more fields.
std::string with(const std::string& fields) {
  return R"({"r": 4, "lora_alpha": 8)" + (fields.empty() ? "" : ", " + fields) + "}";
}

TEST(LoraMetadata, IsWrittenAsPythonWould) {
  const LoraMetadata metadata{
      .rank = 4, .alpha = 8, .use_dora = true, .gaussian = true, .targets = {"to_q", "to_k"}};
  EXPECT_EQ(to_text(metadata), R"({
  "transformer.bias": "none",
  "transformer.init_lora_weights": "gaussian",
  "transformer.lora_alpha": 8,
  "transformer.lora_dropout": 0.0,
  "transformer.r": 4,
  "transformer.target_modules": [
    "to_q",
    "to_k"
  ],
  "transformer.use_dora": true
})");
}

TEST(LoraMetadata, IsReadWithAndWithoutThePrefix) {
  const LoraMetadata written{.rank = 4,
                             .alpha = 2.5,
                             .use_rslora = true,
                             .dropout = 0.1,
                             .targets = {"to_q"},
                             .ranks = {{"^a.to_q", 2}, {"b.to_q", 3}},
                             .alphas = {{"^a.to_q", 7}}};
  const LoraMetadata read = parse_lora_metadata(to_text(written), "it");
  EXPECT_EQ(to_text(read), to_text(written));
  EXPECT_EQ(read.rank_of("a.to_q"), 2);
  EXPECT_EQ(read.rank_of("z.a.to_q"), 4);
  EXPECT_EQ(read.rank_of("z.b.to_q"), 3);
  EXPECT_EQ(read.rank_of("zb.to_q"), 4);
  EXPECT_EQ(read.alpha_of("a.to_q"), 7);
  const LoraMetadata bare = parse_lora_metadata(with(R"("use_dora": true)"), "it");
  EXPECT_EQ(bare.rank, 4);
  EXPECT_EQ(bare.alpha, 8);
  EXPECT_TRUE(bare.use_dora);
}

TEST(LoraMetadata, WhatWouldChangeTheResultIsRefusedByName) {
  EXPECT_EQ(refusal(with("")), "");
  EXPECT_EQ(refusal(with(R"("task_type": "X", "peft_version": "1", "peft_type": "LORA",
                            "modules_to_save": null, "loftq_config": {}, "bias": "none",
                            "fan_in_fan_out": false, "init_lora_weights": "Gaussian")")),
            "");
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {with(R"("bias": "all")"), "bias"},
      {with(R"("lora_bias": true)"), "lora_bias"},
      {with(R"("fan_in_fan_out": true)"), "fan_in_fan_out"},
      {with(R"("modules_to_save": ["x"])"), "modules_to_save"},
      {with(R"("something_new": 1)"), "something_new"},
      {with(R"("peft_type": "LOHA")"), "LOHA"},
      {with(R"("init_lora_weights": "pissa")"), "pissa"},
      {with(R"("rank_pattern": {"to_.*": 4})"), "to_.*"},
      {with(R"("rank_pattern": {"a^b": 4})"), "a^b"},
      {with(R"("rank_pattern": {"to_q": 0})"), "to_q"},
      {with(R"("alpha_pattern": {"to_q": "x"})"), "to_q"},
      {with(R"("lora_dropout": 1)"), "lora_dropout"},
      {with(R"("use_dora": 1)"), "use_dora"},
      {with(R"("target_modules": [1])"), "target_modules"},
      {R"({"r": 4})", "lora_alpha"},
      {R"({"lora_alpha": 4})", "\"r\""},
      {R"({"r": -1, "lora_alpha": 4})", "\"r\""},
      {R"({"r": 1.5, "lora_alpha": 4})", "\"r\""},
      {R"({"r": 4, "lora_alpha": 0})", "lora_alpha"},
      {R"({"transformer.r": 4, "transformer.lora_alpha": 4, "text_encoder.r": 4})",
       "text_encoder.r"},
      {"[]", "it.safetensors"},
      {"{", "it.safetensors"},
  };
  for (const auto& [text, word] : wrong)
    EXPECT_NE(refusal(text).find(word), std::string::npos) << text << " -> " << refusal(text);
}

TEST(LoraNames, AllFormsAreKnown) {
  const std::vector<std::pair<std::string, LoraPart>> forms = {
      {"transformer.a.0.to_q.lora_A.weight", LoraPart::a},
      {"a.0.to_q.lora_A.default.weight", LoraPart::a},
      {"base_model.model.a.0.to_q.lora_B.weight", LoraPart::b},
      {"base_model.model.transformer.a.0.to_q.lora.up.weight", LoraPart::b},
      {"transformer.a.0.to_q.lora.down.weight", LoraPart::a},
      {"a.0.to_q.lora_magnitude_vector", LoraPart::magnitude},
      {"a.0.to_q.lora_magnitude_vector.weight", LoraPart::magnitude},
      {"a.0.to_q.lora_magnitude_vector.default", LoraPart::magnitude},
      {"a.0.to_q.lora_magnitude_vector.default.weight", LoraPart::magnitude}};
  for (const auto& [name, part] : forms) {
    const LoraName parsed = parse_lora_name(name);
    EXPECT_EQ(parsed.refusal, "") << name;
    EXPECT_EQ(parsed.layer, "a.0.to_q") << name;
    EXPECT_EQ(parsed.part, part) << name;
  }
  for (const auto* name :
       {"", "a", "lora_A.weight", ".lora_A.weight", "a.lora_A", "a.lora_A.b", "a.lora_A.b.c.weight",
        "a.lora_A..weight", "a.lora_B.bias", "a.weight", "a.lora_magnitude_vector.b.c.weight",
        "a.lora_magnitude_vector.", "a.lora_magnitude_vectors", "a.dora_scale", "a.alpha"})
    EXPECT_NE(parse_lora_name(name).refusal, "") << name;
  for (const LoraPart part : {LoraPart::a, LoraPart::b, LoraPart::magnitude}) {
    const LoraName parsed = parse_lora_name("x.y" + std::string(lora_suffix(part)));
    EXPECT_EQ(parsed.part, part);
    EXPECT_EQ(parsed.layer, "x.y");
  }
}

}  // namespace
}  // namespace trestle::formats
