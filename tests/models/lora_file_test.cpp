// LoRA files: what is written means the same when it is read, every form of a name is read, and a
// tensor that cannot be used is named. Whether diffusers reads them is the oracle's.
#include "models/weights/lora_file.h"

#include "base/error.h"
#include "formats/lora_metadata.h"
#include "models/weights/safetensors_io.h"
#include "tests/models/tiny_sana.h"
#include "tests/support/scratch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::models {
namespace {

using Model = testing::SanaModel;
using Tensors = std::vector<nn::NamedParameter>;

const std::string kQuery = "transformer_blocks.0.attn1.to_q";

class LoraFile : public ::testing::Test {
 protected:
  at::Tensor draw(std::string_view name, at::IntArrayRef shape) {
    return Draws(7).normal(Purpose(name), shape, at::TensorOptions().dtype(at::kFloat));
  }

  void write(const Tensors& tensors, const std::map<std::string, std::string>& metadata = {}) {
    weights::write_tensors(path_, tensors, metadata);
  }

  std::string refusal() {
    Model m(testing::tiny_sana());
    try {
      weights::load_adapter(path_, m.parameters, "a");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos);
      for (const auto& slot : m.parameters.layers()) EXPECT_TRUE(slot->adapters.empty());
      return error.what();
    }
    return "";
  }

  void expect_refused(const Tensors& tensors, const std::vector<std::string>& words) {
    write(tensors);
    const std::string text = refusal();
    for (const auto& word : words)
      EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
  }

  /// A file that is fine.
  Tensors pair(const std::string& layer = kQuery, std::int64_t rank = 2) {
    return {{"transformer." + layer + ".lora_A.weight", draw(layer + "a", {rank, 16})},
            {"transformer." + layer + ".lora_B.weight", draw(layer + "b", {16, rank})}};
  }

  testing::ScratchFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "lora.safetensors";
};

Tensors operator+(Tensors a, const Tensors& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(LoraFile, IsReadAsItWasWritten) {
  for (const bool dora : {false, true}) {
    Model one(testing::tiny_sana()), two(testing::tiny_sana());
    const nn::LoraConfig config{.rank = 3,
                                .alpha = 5.5,
                                .use_rslora = true,
                                .dropout = 0.25,
                                .init = "kaiming",
                                .use_dora = dora,
                                .targets = {"to_q", "conv_point", "patch_embed.proj"}};
    const auto written = nn::add_adapter(one.parameters, "a", config, Draws(4));
    {
      const at::NoGradGuard no_grad;
      for (const auto& [name, tensor] : written) tensor.add_(draw(name, tensor.sizes()));
    }
    weights::write_adapter(path_, written, config);
    const auto file = formats::SafetensorsFile::open(path_);
    EXPECT_EQ(file.metadata().at("format"), "pt");
    for (const auto& entry : file.entries()) {
      EXPECT_TRUE(entry.name.starts_with("transformer.")) << entry.name;
      EXPECT_EQ(entry.name.find("magnitude_vector.weight"), std::string::npos);
    }

    const auto read = weights::load_adapter(path_, two.parameters, "b");
    ASSERT_EQ(read.parameters.size(), written.size());
    for (std::size_t i = 0; i < written.size(); ++i) {
      EXPECT_EQ(read.parameters[i].name, written[i].name);
      EXPECT_TRUE(at::equal(read.parameters[i].tensor, written[i].tensor)) << written[i].name;
    }
    EXPECT_EQ(read.config.rank, 3);
    EXPECT_EQ(read.config.alpha, 5.5);
    EXPECT_TRUE(read.config.use_rslora);
    EXPECT_EQ(read.config.dropout, 0.25);
    EXPECT_EQ(read.config.init, "kaiming");
    EXPECT_EQ(read.config.use_dora, dora);
    EXPECT_EQ(read.config.targets, config.targets);
    const auto slot = nn::targeted_layers(two.parameters, {"patch_embed.proj"}).front();
    EXPECT_DOUBLE_EQ(slot->find("b")->scale, 5.5 / std::sqrt(3.0));
  }
}

TEST_F(LoraFile, EveryFormOfANameIsReadAlsoMixed) {
  const std::string key = "transformer_blocks.0.attn1.to_k",
                    value = "transformer_blocks.1.attn1.to_v", out = "proj_out";
  const Tensors tensors = {{"transformer." + kQuery + ".lora_A.weight", draw("1", {2, 16})},
                           {"transformer." + kQuery + ".lora.up.weight", draw("2", {16, 2})},
                           {key + ".lora.down.weight", draw("3", {4, 16})},
                           {"base_model.model." + key + ".lora_B.style.weight", draw("4", {16, 4})},
                           {value + ".lora_A.default.weight", draw("5", {2, 16})},
                           {"base_model.model." + value + ".lora_B.weight", draw("6", {16, 2})}};
  write(tensors);
  Model m(testing::tiny_sana());
  const auto loaded = weights::load_adapter(path_, m.parameters, "a");
  ASSERT_EQ(loaded.parameters.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    EXPECT_TRUE(at::equal(loaded.parameters[i].tensor, tensors[i].tensor)) << i;
  // Without a header alpha is the rank, each layer's own; and a file of it says so.
  weights::write_adapter(path_, loaded.parameters, loaded.config);
  Model n(testing::tiny_sana());
  weights::load_adapter(path_, n.parameters, "b");
  for (const Model* model : {&m, &n}) {
    const auto slot = nn::targeted_layers(model->parameters, {key}).front();
    EXPECT_EQ(slot->adapters.front().a.size(0), 4);
    EXPECT_EQ(slot->adapters.front().scale, 1);
  }
}

TEST_F(LoraFile, AlphasOfLayersAreKept) {
  write(pair(kQuery, 2) + pair("transformer_blocks.1.attn1.to_q", 4),
        {{"lora_adapter_metadata",
          R"({"transformer.r": 2, "transformer.lora_alpha": 3, "transformer.target_modules":
              ["to_q"], "transformer.rank_pattern": {"1.attn1.to_q": 4},
              "transformer.alpha_pattern": {"^transformer_blocks.1.attn1.to_q": 2}})"}});
  Model m(testing::tiny_sana()), n(testing::tiny_sana());
  const auto loaded = weights::load_adapter(path_, m.parameters, "a");
  weights::write_adapter(path_, loaded.parameters, loaded.config);
  weights::load_adapter(path_, n.parameters, "a");
  for (const Model* model : {&m, &n}) {
    const auto slots = nn::targeted_layers(model->parameters, {"attn1.to_q"});
    EXPECT_EQ(slots[0]->adapters.front().scale, 1.5);
    EXPECT_EQ(slots[1]->adapters.front().scale, 0.5);
  }
}

TEST_F(LoraFile, NothingIsLeftOut) {
  write(pair());
  EXPECT_EQ(refusal(), "");
  expect_refused(pair() + Tensors{{"transformer." + kQuery + ".dora_scale", draw("d", {16, 1})}},
                 {"dora_scale", "diffusers drops it"});
  expect_refused(pair() + Tensors{{"transformer." + kQuery + ".alpha", draw("d", {})}},
                 {"to_q.alpha", "lora_adapter_metadata"});
  expect_refused(pair() + Tensors{{"transformer." + kQuery + ".lora_B.bias", draw("d", {16})}},
                 {"lora_B.bias", "lora_bias"});
  expect_refused(pair() + pair("transformer_blocks.7.attn1.to_q"),
                 {"no layer \"transformer_blocks.7.attn1.to_q\"", "the nearest is \"transformer_"});
  expect_refused(pair() + Tensors{{"transformer.proj_out.weight", draw("d", {12, 16})}},
                 {"transformer.proj_out.weight", "no tensor of a LoRA"});
  expect_refused(pair() + Tensors{{kQuery + ".lora.down.weight", draw("d", {2, 16})}},
                 {"says what"});
  expect_refused(pair("transformer_blocks.0.ff.conv_depth"), {"conv_depth", "depthwise"});
  expect_refused({pair()[0]}, {"to_q: has no lora_B"});
  expect_refused({pair()[1]}, {"to_q: has no lora_A"});
  expect_refused({{kQuery + ".lora_A.weight", draw("d", {2, 15})}, pair()[1]},
                 {"[2, 15], not [2, 16]"});
  expect_refused({pair()[0], {kQuery + ".lora_B.weight", draw("d", {16, 3})}},
                 {"[16, 3], not [16, 2]"});
  expect_refused({{kQuery + ".lora_A.weight", draw("d", {0, 16})}, pair()[1]}, {"rank of 0"});
  expect_refused({{kQuery + ".lora_A.weight", at::Tensor(at::zeros({}))}, pair()[1]},
                 {"rank of 0"});
  expect_refused({}, {"holds no tensor"});
  expect_refused(pair() + Tensors{{"a\x1b[2Jb", draw("d", {2})}}, {"a?[2Jb"});
}

TEST_F(LoraFile, HeaderAndTensorsMustAgree) {
  const auto header = [](const std::string& fields) {
    return std::map<std::string, std::string>{
        {"lora_adapter_metadata",
         R"({"transformer.lora_alpha": 2, "transformer.target_modules": ["to_q"], )" + fields +
             "}"}};
  };
  write(pair(), header(R"("transformer.r": 4)"));
  EXPECT_NE(refusal().find("has rank 2, where the file's header says 4"), std::string::npos);
  write(pair(), header(R"("transformer.r": 2, "transformer.use_dora": true)"));
  EXPECT_NE(refusal().find("has no lora_magnitude_vector"), std::string::npos);
  write(pair() + Tensors{{kQuery + ".lora_magnitude_vector", draw("m", {16})}},
        header(R"("transformer.r": 2)"));
  EXPECT_NE(refusal().find("says it is none"), std::string::npos);
  write(pair(), header(R"("transformer.r": 2, "transformer.lora_bias": true)"));
  EXPECT_NE(refusal().find("lora_bias"), std::string::npos);
}

}  // namespace
}  // namespace trestle::models
