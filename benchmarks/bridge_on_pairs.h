// What sana_step and multi_node train: the Sana transformer on random pairs that lie in memory,
// with the Brownian-bridge loss. One workload file says model, sizes and optimizer settings to
// Trestle's side and to diffusers'.
//
//   const auto workload = benchmarks::read_workload(path);
//   benchmarks::BridgeOnPairs task(workload);
//   trainers::Engine engine(task, *collectives,
//                           trainers::EngineOptions::of(benchmarks::recipe_of(workload), task));
//
// LOCAL. THREADS: one.
#pragma once
#include "base/files.h"
#include "base/torch/draws.h"
#include "configs/json.h"
#include "configs/recipe.h"
#include "models/sana/transformer.h"
#include "processes/brownian_bridge.h"
#include "trainers/group_options.h"
#include "trainers/optim/ema.h"
#include "trainers/options.h"
#include "trainers/task.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace trestle::benchmarks {

inline nlohmann::json read_workload(const std::string& path) {
  return nlohmann::json::parse(read_text_file(path, 1 << 20, ExitCode::data));
}

/// The workload's settings as a recipe says them, then `sets` ("dist.shard=none").
inline configs::Recipe recipe_of(const nlohmann::json& workload,
                                 const std::vector<std::string>& sets = {}) {
  std::vector<std::string> all;
  for (const auto& [key, name] : {std::pair{"optim.learning_rate", "learning_rate"},
                                  {"optim.adam_beta1", "adam_beta1"},
                                  {"optim.adam_beta2", "adam_beta2"},
                                  {"optim.adam_epsilon", "adam_epsilon"},
                                  {"optim.weight_decay", "adam_weight_decay"},
                                  {"train.max_grad_norm", "max_grad_norm"},
                                  {"ema.decay", "ema_decay"}})
    all.push_back(fmt::format("{}={}", key, workload.at(name).get<double>()));
  all.insert(all.end(), sets.begin(), sets.end());
  const auto recipe = configs::Recipe::from_text("", "the workload", all);
  configs::Schema schema;
  schema.section<trainers::TrainOptions>("train");
  schema.section<trainers::AdamWOptions>("optim");
  schema.section<trainers::ScheduleOptions>("optim");
  trainers::describe_averages(schema);
  schema.section<trainers::DistOptions>("dist");
  recipe.check(schema);
  return recipe;
}

class RandomPairs : public data::Dataset {
 public:
  RandomPairs(const nlohmann::json& workload, const models::sana::SanaConfig& config) {
    const Draws draws(1);
    const std::vector<std::int64_t> shape = {kPool, config.in_channels, workload["latent_height"],
                                             workload["latent_width"]};
    const at::TensorOptions options(at::kFloat);
    source_ = draws.normal(Purpose("source"), shape, options);
    target_ = draws.normal(Purpose("target"), shape, options);
    text_ = draws.normal(Purpose("text"), {kPool, workload["text_tokens"], config.caption_channels},
                         options);
    mask_ = at::ones({kPool, workload["text_tokens"].get<std::int64_t>()}, at::kLong);
  }
  std::int64_t size() const override { return kPool; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    const at::Tensor rows = at::tensor(at::IntArrayRef(ids.data(), ids.size()), at::kLong);
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"source", source_.index_select(0, rows)},
                     {"target", target_.index_select(0, rows)},
                     {"text", text_.index_select(0, rows)},
                     {"text_mask", mask_.index_select(0, rows)}};
    return batch;
  }

 private:
  static constexpr std::int64_t kPool = 64;  // visited in turn

  at::Tensor source_, target_, text_, mask_;
};

class BridgeOnPairs : public trainers::Task {
 public:
  explicit BridgeOnPairs(const nlohmann::json& workload)
      : BridgeOnPairs(workload, configs::from_json<models::sana::SanaConfig>(
                                    workload["model"].dump(), "the workload's model")) {}

  std::vector<trainers::ParameterGroup> groups() override {
    return {{.name = "transformer", .parameters = parameters_.all()}};
  }
  const data::Dataset& dataset(trainers::Split) override { return pairs_; }
  /// The pairs at these positions, one after the other.
  data::Batch batch(std::vector<Position> positions) const {
    std::vector<data::SampleId> ids;
    for (const auto position : positions) ids.push_back(position.value % pairs_.size());
    data::Batch batch = pairs_.load(ids);
    batch.positions = std::move(positions);
    return batch;
  }
  trainers::LossReport loss(const trainers::Objective&, const data::Batch& batch,
                            const trainers::StepContext& context) override {
    const at::Tensor& source = batch.tensor("source");
    const at::Tensor time =
        context.draws.uniform(batch.positions, Purpose("bridge.time"), {}, source.options());
    const at::Tensor noise = context.draws.normal(batch.positions, Purpose("bridge.noise"),
                                                  source.sizes().slice(1), source.options());
    const auto point =
        processes::bridge_point(source, batch.tensor("target"), time, noise, noise_scale_);
    const at::Tensor velocity = model_({.latents_bchw = point.x,
                                        .text_blc = batch.tensor("text"),
                                        .timestep_b = time * 1000,
                                        .text_mask_bl = batch.tensor("text_mask")});
    return {.terms = {{.name = "bridge", .per_sample = processes::bridge_loss(velocity, point)}}};
  }
  std::vector<formats::Picture> sample(const trainers::SampleRequest&, const Draws&) override {
    return {};
  }
  std::int64_t numel() const { return parameters_.numel(); }

 private:
  BridgeOnPairs(const nlohmann::json& workload, const models::sana::SanaConfig& config)
      : pairs_(workload, config),
        noise_scale_(workload["noise_scale"]),
        parameters_(at::TensorOptions(at::kFloat), Draws(2)),
        model_(config, parameters_.root()) {}

  RandomPairs pairs_;
  double noise_scale_;
  models::nn::Parameters parameters_;
  models::sana::SanaTransformer model_;
};

}  // namespace trestle::benchmarks
