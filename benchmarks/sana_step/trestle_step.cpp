// Trains Sana in Trestle on random data, a round at a time, and says how fast: the contender of
// diffusers_step.py, with the same options, the same "go N" protocol and the same kind of step.
//
// A step is trainers::Engine on one rank: draws, bridge loss forward and backward over the
// micro batches, reduction (of one rank), clipping, AdamW, EMA. Data lies ready in memory.
#include "base/files.h"
#include "benchmarks/rounds.h"
#include "configs/json.h"
#include "models/sana/transformer.h"
#include "processes/brownian_bridge.h"
#include "trainers/engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace {

using namespace trestle;
namespace nn = models::nn;

constexpr std::int64_t kPool = 64;  // pairs in memory, visited in turn
constexpr std::uint64_t kTextLimit = 1 << 20;

struct Arguments {
  std::string workload = "benchmarks/sana_step/workload.json";
  std::int64_t batch = 8, micro_batch = 0, threads = 1;
};

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
  at::Tensor source_, target_, text_, mask_;
};

class BridgeOnPairs : public trainers::Task {
 public:
  BridgeOnPairs(const nlohmann::json& workload, const models::sana::SanaConfig& config)
      : pairs_(workload, config),
        noise_scale_(workload["noise_scale"]),
        parameters_(at::TensorOptions(at::kFloat), Draws(2)),
        model_(config, parameters_.root()) {}

  std::vector<trainers::ParameterGroup> groups() override {
    return {{.name = "transformer", .parameters = parameters_.all()}};
  }
  const data::Dataset& dataset(trainers::Split) override { return pairs_; }
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
  RandomPairs pairs_;
  double noise_scale_;
  nn::Parameters parameters_;
  models::sana::SanaTransformer model_;
};

void measure(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const auto workload =
      nlohmann::json::parse(read_text_file(arguments.workload, kTextLimit, ExitCode::data));
  const auto config =
      configs::from_json<models::sana::SanaConfig>(workload["model"].dump(), arguments.workload);
  BridgeOnPairs task(workload, config);
  const auto collectives = dist::make_collectives(dist::Communicator::self());
  trainers::Engine engine(
      task, *collectives,
      {.reducer = {},
       .max_grad_norm = workload["max_grad_norm"],
       .averages = {{.name = "ema", .options = {.decay = workload["ema_decay"]}}},
       .every_group = {.adamw = {.learning_rate = workload["learning_rate"],
                                 .adam_beta1 = workload["adam_beta1"],
                                 .adam_beta2 = workload["adam_beta2"],
                                 .adam_epsilon = workload["adam_epsilon"],
                                 .weight_decay = workload["adam_weight_decay"]}}});
  const trainers::KindCounts kinds = {{"all", arguments.batch}};
  data::BadSamples bad_samples(0);
  const data::BatchPlan plan(arguments.batch, arguments.micro_batch, 0, 1);
  const Draws draws(3);
  std::int64_t step = 0;

  benchmarks::serve({{"go", [&](std::int64_t steps) {
                        const benchmarks::Stopwatch watch;
                        double loss = 0;
                        for (std::int64_t i = 0; i < steps; ++i, ++step) {
                          std::int64_t micro = 0;
                          const auto next_batch = [&] {
                            const auto positions = plan.micro_batch({step}, micro++);
                            std::vector<data::SampleId> ids;
                            for (const auto position : positions)
                              ids.push_back(position.value % kPool);
                            data::Batch batch = task.dataset(trainers::Split::train).load(ids);
                            batch.positions = positions;
                            return batch;
                          };
                          loss += engine
                                      .step({.step = {step},
                                             .draws = draws,
                                             .kinds = kinds,
                                             .micro_steps = plan.micro_steps(),
                                             .next_batch = next_batch,
                                             .bad_samples = bad_samples})
                                      .objectives.front()
                                      .loss;
                        }
                        const double samples = double(steps * arguments.batch);
                        return nlohmann::json{{"samples_per_s", samples / watch.wall_s()},
                                              {"samples_per_cpu_s", samples / watch.cpu_s()},
                                              {"loss", loss / double(steps)},
                                              {"parameters", task.numel()}};
                      }}});
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of sana_step: answers \"go N\" on standard input");
  app.add_option("--workload", arguments.workload, "model, sizes and optimizer settings");
  app.add_option("--batch", arguments.batch, "samples a step");
  app.add_option("--micro-batch", arguments.micro_batch, "samples a backward; 0: the batch");
  app.add_option("--threads", arguments.threads);
  return benchmarks::run(app, argc, argv, [&] {
    if (arguments.micro_batch == 0) arguments.micro_batch = arguments.batch;
    measure(arguments);
  });
}
