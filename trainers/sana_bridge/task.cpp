#include "base/log.h"
#include "data/loader.h"
#include "trainers/sana_bridge/heldout_error.h"
#include "trainers/sana_bridge/sana_bridge.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

// Axes: B batch, C channels, h w latent sides, H W picture sides.

namespace trestle::trainers::sana_bridge {
namespace {

constexpr const char* kTrainList = "pairs.jsonl";
constexpr const char* kHeldoutList = "heldout.jsonl";
constexpr double kTimesteps = 1000.0;
constexpr std::int64_t kTimeBins = 4;
constexpr const char* kAdapter = "default";  // the name that peft gives a lone one

at::TensorOptions parameter_options(const Options& options, Materialise materialise) {
  return at::TensorOptions()
      .dtype(options.model.scalar_type())
      .device(materialise == Materialise::meta ? at::kMeta : at::kCPU);
}

/// Pictures [3, H, W] in [-1, 1] side by side, as 8-bit RGB.
formats::Picture strip(const std::vector<at::Tensor>& pictures_chw) {
  const at::Tensor bytes_hwc = ((at::cat(pictures_chw, 2).to(at::kFloat) + 1) * 127.5)
                                   .round()
                                   .clamp(0, 255)
                                   .to(at::kByte)
                                   .permute({1, 2, 0})
                                   .contiguous();
  formats::Picture picture{.width = static_cast<int>(bytes_hwc.size(1)),
                           .height = static_cast<int>(bytes_hwc.size(0)),
                           .rgb = {}};
  const auto* bytes = bytes_hwc.const_data_ptr<std::uint8_t>();
  picture.rgb.assign(bytes, bytes + bytes_hwc.numel());
  return picture;
}

}  // namespace

SanaBridge::SanaBridge(const Options& options, Materialise materialise)
    : options_(options),
      parameters_(parameter_options(options, materialise), Draws(options.seed)),
      model_(options.model, parameters_.root()),
      codec_(options.bridge.codec_factor) {
  if (options_.lora.enabled) {
    adapter_ = models::nn::add_adapter(parameters_, kAdapter, options_.lora, Draws(options.seed));
    adapters_ = models::nn::activate(parameters_, {{kAdapter}});
  }
  if (materialise == Materialise::weights) {  // the warning was said when the recipe was checked
    if (options_.checkpoint_every > 0) {
      log_debug("gradient checkpointing: backward recomputes {} blocks in segments of {}",
                options_.model.num_layers, options_.checkpoint_every);
    }
    return;
  }
  for (const std::string& warning :
       {processes::ode_warning(options_.sampler, options_.bridge.noise_scale),
        models::sana::precision_warning(options_.model, options_.model.scalar_type())}) {
    if (!warning.empty()) log_common_warning(warning);
  }
}

std::vector<ParameterGroup> SanaBridge::groups() {
  if (options_.lora.enabled) return {{.name = "lora", .parameters = adapter_}};
  return {{.name = "transformer", .parameters = parameters_.all()}};
}

std::vector<FrozenPart> SanaBridge::frozen() {
  if (!options_.lora.enabled) return {};
  return {{.name = "transformer", .parameters = parameters_.all()}};
}

const data::Dataset& SanaBridge::dataset(Split split) {
  auto& set = split == Split::train ? train_ : heldout_;
  if (!set) {
    set = std::make_unique<data::PairedPictures>(options_.data,
                                                 split == Split::train ? kTrainList : kHeldoutList,
                                                 options_.model.caption_channels);
  }
  return *set;
}

at::Tensor SanaBridge::velocity(const at::Tensor& x, const at::Tensor& time_b,
                                const data::Batch& batch,
                                const models::sana::DropoutDraws* dropout) const {
  const auto dtype = options_.model.scalar_type();
  const at::Tensor predicted =
      model_({.latents_bchw = x.to(dtype),
              .text_blc = batch.tensor("text").to(dtype),
              .timestep_b = time_b * (kTimesteps * options_.model.timestep_scale),
              .text_mask_bl = batch.tensor("text_mask"),
              .dropout = dropout,
              .adapters = &adapters_,
              .checkpoint_every = options_.checkpoint_every});
  return predicted.to(options_.model.bridge_type());
}

LossReport SanaBridge::loss(const Objective&, const data::Batch& batch,
                            const StepContext& context) {
  const auto dtype = options_.model.bridge_type();
  const at::Tensor source_bchw = codec_.encode(batch.tensor("source").to(dtype));
  const at::Tensor target_bchw = codec_.encode(batch.tensor("target").to(dtype));
  const at::Tensor time_b =
      context.draws.uniform(batch.positions, Purpose("bridge.time"), {}, source_bchw.options());
  const at::Tensor noise_bchw =
      context.draws.normal(batch.positions, Purpose("bridge.noise"), source_bchw.sizes().slice(1),
                           source_bchw.options());
  const auto point = processes::bridge_point(source_bchw, target_bchw, time_b, noise_bchw,
                                             options_.bridge.noise_scale);
  const models::sana::DropoutDraws dropout{context.draws, batch.positions};
  const at::Tensor predicted = velocity(point.x, time_b, batch, &dropout);
  const at::Tensor loss_b = processes::bridge_loss(predicted, point);
  Metrics metrics;
  metrics.binned("loss_by_time", loss_b, time_b * double(kTimeBins), kTimeBins);
  return {.terms = {{.name = "bridge", .per_sample = loss_b}}, .metrics = std::move(metrics)};
}

at::Tensor SanaBridge::generate(const data::Batch& batch, const Draws& draws, StopToken stop) {
  const at::NoGradGuard no_grad;
  std::vector<Position> keys;
  for (const auto id : batch.ids) keys.push_back({id});
  const at::Tensor source_bchw =
      codec_.encode(batch.tensor("source").to(options_.model.bridge_type()));
  const at::Tensor latents_bchw = processes::sample_bridge(
      source_bchw,
      [&](const at::Tensor& x, double r) {
        stop.check();
        return velocity(x, at::full({x.size(0)}, r, x.options()), batch, /*dropout=*/nullptr);
      },
      [&](std::int64_t step) {
        return draws.normal(keys, Purpose("sample.noise").at(static_cast<std::uint32_t>(step)),
                            source_bchw.sizes().slice(1), source_bchw.options());
      },
      options_.bridge.noise_scale, options_.sampler);
  return codec_.decode(latents_bchw);
}

std::vector<formats::Picture> SanaBridge::sample(const SampleRequest& request, const Draws& draws) {
  std::vector<formats::Picture> pictures;
  for (const auto id : request.ids) {
    const data::Batch batch = dataset(Split::heldout).load(std::span(&id, 1));
    const at::Tensor generated = generate(batch, draws, request.stop);
    pictures.push_back(strip({batch.tensor("source")[0], generated[0], batch.tensor("target")[0]}));
  }
  return pictures;
}

std::vector<std::unique_ptr<Job>> SanaBridge::jobs() {
  auto map = std::make_shared<AffineMap>();
  std::vector<std::unique_ptr<Job>> jobs;
  jobs.push_back(std::make_unique<FitAffineMap>(*this, map));
  jobs.push_back(std::make_unique<HeldoutError>(*this, map));
  return jobs;
}

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "sana_bridge",
      .summary = "Brownian bridge from picture to picture with a Sana transformer",
      .describe =
          [](configs::Schema& schema) {
            schema.section<BridgeOptions>("task");
            schema.section<ModelOptions>("model");
            schema.section<LoraOptions>("lora");
            schema.section<data::PairedPicturesOptions>("data");
            schema.section<data::LoaderOptions>("data");
            schema.section<processes::BridgeSamplerOptions>("sample");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<SanaBridge>(read_options(recipe), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::sana_bridge
