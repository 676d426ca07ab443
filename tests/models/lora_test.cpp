// Adapters without a reference: which layers get one, what is refused, how they begin, merging and
// taking out, dropout, checkpointing. Numbers are the oracle's.
#include "models/nn/lora.h"

#include "base/error.h"
#include "models/nn/activations.h"
#include "tests/models/tiny_sana.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

namespace trestle::models {
namespace {

using Model = testing::SanaModel;
using Targets = std::vector<std::string>;

constexpr auto tiny = testing::tiny_sana;

/// All kinds of layers that can have an adapter.
const Targets kEverything = {
    "to_q",       "to_k",     "to_v",     "to_out.0",          "conv_inverted",
    "conv_point", "linear_1", "linear_2", "time_embed.linear", "patch_embed.proj",
    "proj_out"};

std::string refusal(const nn::Parameters& parameters, const Targets& targets) {
  try {
    nn::targeted_layers(parameters, targets);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

void expect_says(const std::string& text, const std::vector<std::string>& words) {
  for (const auto& word : words)
    EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
}

/// Random values for what begins at zero or at a norm, so that an adapter does something.
void randomise(const std::vector<nn::NamedParameter>& adapter, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : adapter) {
    const at::Tensor noise = Draws(seed).normal(Purpose(name), tensor.sizes(), tensor.options());
    if (name.ends_with("magnitude_vector")) {
      tensor.mul_(1 + 0.3 * noise);
    } else {
      tensor.copy_(0.5 * noise);
    }
  }
}

struct Input {
  explicit Input(at::ScalarType dtype = at::kFloat, std::int64_t batch = 3)
      : latents(draw("x", {batch, 12, 4, 3}, dtype)),
        text(draw("t", {batch, 5, 6}, dtype)),
        time(at::linspace(1, 900, batch)) {}
  static at::Tensor draw(std::string_view name, at::IntArrayRef shape, at::ScalarType dtype) {
    return Draws(2).normal(Purpose(name), shape, at::TensorOptions().dtype(dtype));
  }
  sana::SanaInput with(const nn::AdapterSet* set) const {
    return {.latents_bchw = latents, .text_blc = text, .timestep_b = time, .adapters = set};
  }
  at::Tensor latents, text, time;
};

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(LoraTargets, AreNamesOrTheirEnds) {
  const Model m(tiny());
  const auto names = [&](const Targets& targets) {
    Targets found;
    for (const auto& slot : nn::targeted_layers(m.parameters, targets))
      found.push_back(slot->layer);
    return found;
  };
  EXPECT_EQ(
      names({"to_out.0"}),
      (Targets{"transformer_blocks.0.attn1.to_out.0", "transformer_blocks.0.attn2.to_out.0",
               "transformer_blocks.1.attn1.to_out.0", "transformer_blocks.1.attn2.to_out.0"}));
  EXPECT_EQ(names({"proj_out", "attn1.to_q", "proj"}),
            (Targets{"patch_embed.proj", "transformer_blocks.0.attn1.to_q",
                     "transformer_blocks.1.attn1.to_q", "proj_out"}));
  EXPECT_EQ(names({"to_q", "transformer_blocks.0.attn1.to_q"}).size(), 4u);  // none twice
  EXPECT_EQ(names({"linear"}), Targets{"time_embed.linear"});
}

TEST(LoraTargets, RefusalsNameTheNearest) {
  const Model m(tiny());
  expect_says(refusal(m.parameters, {"to_qq", "to_out", "to_k"}),
              {"\"to_qq\"", "Did you mean \"to_q\"", "\"to_out\"", "Did you mean \"to_out.0\""});
  expect_says(refusal(m.parameters, {"conv_depth"}),
              {"conv_depth", "depthwise", "transformer_blocks.0.ff.conv_depth"});
  expect_says(refusal(m.parameters, {}), {"lora.targets is empty"});
  EXPECT_EQ(refusal(m.parameters, kEverything), "");
}

TEST(Lora, NamesAndTypesAreThoseOfPeft) {
  Model m(tiny(), at::TensorOptions().dtype(at::kBFloat16));
  const auto found = nn::add_adapter(
      m.parameters, "style",
      {.rank = 3, .use_dora = true, .targets = {"patch_embed.proj", "attn1.to_q"}}, Draws(1));
  Targets names;
  for (const auto& [name, tensor] : found) {
    names.push_back(name);
    EXPECT_EQ(tensor.scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(tensor.requires_grad() && tensor.is_leaf()) << name;
  }
  const std::string block = "transformer_blocks.0.attn1.to_q.";
  ASSERT_EQ(names.size(), 9u);
  EXPECT_EQ(
      Targets(names.begin() + 1, names.begin() + 6),
      (Targets{"patch_embed.proj.lora_B.weight", "patch_embed.proj.lora_magnitude_vector",
               block + "lora_A.weight", block + "lora_B.weight", block + "lora_magnitude_vector"}));
  EXPECT_EQ(found[0].tensor.sizes(), (std::vector<std::int64_t>{3, 12, 1, 1}));
  EXPECT_EQ(found[1].tensor.sizes(), (std::vector<std::int64_t>{16, 3, 1, 1}));
  EXPECT_EQ(found[2].tensor.sizes(), (std::vector<std::int64_t>{1, 16, 1, 1}));
  EXPECT_EQ(found[5].tensor.sizes(), (std::vector<std::int64_t>{16}));
  for (const auto& parameter : m.parameters.all())
    EXPECT_FALSE(parameter.tensor.requires_grad()) << parameter.name;
  EXPECT_EQ(nn::adapter_parameters(m.parameters, "style").size(), 9u);
  EXPECT_EQ(nn::adapter_parameters(m.parameters, "other").size(), 0u);

  const auto narrow = nn::add_adapter(m.parameters, "narrow", {.dtype = "base"}, Draws(1));
  EXPECT_EQ(narrow[0].tensor.scalar_type(), at::kBFloat16);
  Model wide(tiny(), at::TensorOptions().dtype(at::kDouble));
  EXPECT_EQ(nn::add_adapter(wide.parameters, "a", {}, Draws(1))[0].tensor.scalar_type(),
            at::kDouble);
  EXPECT_THROW(nn::add_adapter(wide.parameters, "a", {}, Draws(1)), std::logic_error);
}

TEST(Lora, BeginsAsPeftDoes) {
  auto config = tiny();
  config.attention_head_dim = 64;
  config.cross_attention_dim = 128;
  Model m(config);
  const auto gaussian =
      nn::add_adapter(m.parameters, "g", {.rank = 8, .targets = {"to_q"}}, Draws(1));
  const auto kaiming = nn::add_adapter(
      m.parameters, "k", {.rank = 8, .init = "kaiming", .targets = {"to_q"}}, Draws(1));
  const at::Tensor normal = gaussian[0].tensor.detach(), uniform = kaiming[0].tensor.detach();
  EXPECT_NEAR(normal.std().item<double>(), 1.0 / 8, 0.01);
  EXPECT_NEAR(normal.mean().item<double>(), 0, 0.02);
  EXPECT_GT(normal.abs().max().item<double>(), 2.5 / 8);
  const double bound = 1 / std::sqrt(128.0);
  EXPECT_LE(uniform.abs().max().item<double>(), bound);
  EXPECT_NEAR(uniform.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound);
  EXPECT_EQ(gaussian[1].tensor.abs().max().item<double>(), 0);
  // Belongs to the adapter's name and the layer's, and to nothing else.
  EXPECT_FALSE(at::equal(normal, gaussian[2].tensor));
  Model again(config);
  const auto other =
      nn::add_adapter(again.parameters, "h", {.rank = 8, .targets = {"to_q"}}, Draws(1));
  const auto same =
      nn::add_adapter(again.parameters, "g", {.rank = 8, .targets = {"to_k", "to_q"}}, Draws(1));
  EXPECT_FALSE(at::equal(normal, other[0].tensor));
  EXPECT_EQ(same[0].name, gaussian[0].name);
  EXPECT_TRUE(at::equal(normal, same[0].tensor));
}

TEST(Lora, ChangesNothingBeforeItLearns) {
  for (const bool dora : {false, true}) {
    Model m(tiny());
    const Input in;
    const at::Tensor plain = m.model(in.with(nullptr));
    nn::add_adapter(m.parameters, "a", {.use_dora = dora, .targets = kEverything}, Draws(1));
    const auto set = nn::activate(m.parameters, {{"a"}});
    EXPECT_LT(difference(m.model(in.with(&set)), plain), 1e-5);
    EXPECT_TRUE(at::equal(m.model(in.with(nullptr)), plain));
  }
}

TEST(Lora, TrainsTheAdapterAloneOnTheFusedPath) {
  Model m(tiny());
  const Input in;
  const auto run = [&](const nn::AdapterSet* set) {
    const std::int64_t before = nn::fused_calls();
    const at::Tensor y = m.model(in.with(set));
    return std::pair(nn::fused_calls() - before, y);
  };
  const std::int64_t plain = run(nullptr).first;
  const auto adapter = nn::add_adapter(m.parameters, "a", {.targets = kEverything}, Draws(1));
  randomise(adapter, 3);
  const auto set = nn::activate(m.parameters, {{"a"}});
  const auto [fused, y] = run(&set);
  EXPECT_EQ(fused, plain);
  EXPECT_GT(fused, 0);
  torch::autograd::backward({y.square().sum()}, {});
  for (const auto& [name, tensor] : adapter) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << name;
  }
  for (const auto& [name, tensor] : m.parameters.all()) EXPECT_FALSE(tensor.grad().defined());
}

TEST(Lora, SeveralAddUpByTheirWeights) {
  nn::Parameters parameters(at::TensorOptions().dtype(at::kDouble), Draws(1));
  const nn::Linear layer(parameters.root() / "proj", 6, 4, nn::Bias::yes);
  for (const auto* name : {"a", "b"}) {
    randomise(nn::add_adapter(parameters, name, {.targets = {"proj"}}, Draws(1)),
              std::uint64_t(name[0]));
  }
  const at::Tensor x = Input::draw("x", {2, 6}, at::kDouble), plain = layer(x);
  const auto change = [&](std::vector<nn::ActiveAdapter> active) {
    return layer(x, {.adapters = nn::activate(parameters, std::move(active))}) - plain;
  };
  const at::Tensor a = change({{"a"}}), b = change({{"b"}});
  EXPECT_GT(difference(a, b), 0.01);
  EXPECT_LT(difference(change({{"a", 0.5}, {"b", -2}}), 0.5 * a - 2 * b), 1e-12);
  EXPECT_LT(difference(change({}), at::zeros_like(a)), 1e-300);
}

TEST(Lora, UnknownAdaptersAreNotPassedOver) {
  Model m(tiny());
  nn::add_adapter(m.parameters, "style", {}, Draws(1));
  try {
    nn::activate(m.parameters, {{"stile"}});
    FAIL();
  } catch (const Error& error) {
    expect_says(error.what(), {"\"stile\"", "Did you mean \"style\""});
  }
  EXPECT_THROW(nn::activate(m.parameters, {{"style"}, {"style", 2}}), Error);
}

TEST(LoraMerge, EqualsTheAdapterAndComesOutBitForBit) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Model m(tiny(), at::TensorOptions().dtype(dtype));
    randomise(nn::add_adapter(m.parameters, "a", {.targets = kEverything}, Draws(1)), 3);
    randomise(
        nn::add_adapter(m.parameters, "b", {.use_dora = true, .targets = kEverything}, Draws(1)),
        4);
    const Input in(dtype);
    const at::Tensor plain = m.model(in.with(nullptr));
    std::vector<at::Tensor> before;
    for (const auto& parameter : m.parameters.all()) before.push_back(parameter.tensor.clone());
    const auto set = nn::activate(m.parameters, {{"a", 0.5}, {"b", 0.7}});
    const at::Tensor active = m.model(in.with(&set));
    nn::merge(m.parameters, set);
    const double scale = active.abs().max().item<double>();
    EXPECT_GT(difference(active, plain), 0.05 * scale);
    EXPECT_LT(difference(m.model(in.with(nullptr)), active),
              (dtype == at::kFloat ? 1e-4 : 0.1) * scale);
    EXPECT_THROW(m.model(in.with(&set)), std::logic_error);  // it would count twice
    EXPECT_THROW(nn::merge(m.parameters, set), std::logic_error);
    nn::unmerge(m.parameters);
    for (std::size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(at::equal(m.parameters.all()[i].tensor, before[i])) << m.parameters.all()[i].name;
    EXPECT_TRUE(at::equal(m.model(in.with(nullptr)), plain));
    EXPECT_TRUE(at::equal(m.model(in.with(&set)), active));
  }
}

TEST(LoraDropout, BelongsToSamplesAndAdapters) {
  Model m(tiny());
  for (const auto* name : {"a", "b"}) {
    randomise(
        nn::add_adapter(m.parameters, name, {.dropout = 0.4, .targets = kEverything}, Draws(1)),
        3);  // the same values twice
  }
  const auto a = nn::activate(m.parameters, {{"a"}}), b = nn::activate(m.parameters, {{"b"}});
  const Input all;
  const auto run = [&](const nn::AdapterSet& set, std::vector<std::int64_t> rows) {
    sana::DropoutDraws dropout{Draws(5), {}};
    for (const auto row : rows) dropout.positions.push_back({10 + row});
    const at::Tensor index = at::tensor(rows);
    return m.model({.latents_bchw = all.latents.index_select(0, index),
                    .text_blc = all.text.index_select(0, index),
                    .timestep_b = all.time.index_select(0, index),
                    .dropout = &dropout,
                    .adapters = &set});
  };
  const at::Tensor together = run(a, {0, 1, 2});
  EXPECT_GT(difference(together, m.model(all.with(&a))), 1e-3);
  // As two ranks would split it, or in another order.
  EXPECT_LT(difference(at::cat({run(a, {0}), run(a, {1, 2})}), together), 2e-4);
  EXPECT_LT(difference(run(a, {2, 0, 1}), together.index_select(0, at::tensor({2, 0, 1}))), 2e-4);
  EXPECT_GT(difference(run(b, {0, 1, 2}), together), 1e-3);  // masks of its own
  EXPECT_LT(difference(m.model(all.with(&a)), m.model(all.with(&b))), 1e-6);
}

TEST(LoraCheckpoint, SegmentsHaveTheSameBits) {
  for (const bool dora : {false, true}) {
    auto config = tiny();
    config.num_layers = 3;
    config.dropout = 0.2;
    Model m(config);
    const auto adapter = nn::add_adapter(
        m.parameters, "a", {.dropout = 0.3, .use_dora = dora, .targets = kEverything}, Draws(1));
    randomise(adapter, 3);
    const Input in;
    const auto outcome = [&](std::int64_t every) {
      for (const auto& [name, tensor] : adapter) tensor.mutable_grad().reset();
      at::Tensor y;
      {  // all that only the call owns is gone before backward
        const auto set = nn::activate(m.parameters, {{"a", 0.5}});
        const sana::DropoutDraws dropout{Draws(3), {{4}, {9}, {1}}};
        auto input = in.with(&set);
        input.dropout = &dropout;
        input.checkpoint_every = every;
        y = m.model(input);
      }
      torch::autograd::backward({y.square().sum()}, {});
      std::vector<at::Tensor> found = {y.detach()};
      for (const auto& [name, tensor] : adapter) found.push_back(tensor.grad());
      return found;
    };
    const auto plain = outcome(0);
    for (const std::int64_t every : {1, 2, 3}) {
      const auto found = outcome(every);
      for (std::size_t i = 0; i < plain.size(); ++i)
        EXPECT_TRUE(at::equal(plain[i], found[i])) << "every " << every << ", tensor " << i;
    }
  }
}

}  // namespace
}  // namespace trestle::models
