// export_draws RECIPE.toml FOLDER [KEY=VALUE ...]: writes what a run of sana_bridge starts from and
// draws, through the code that training uses, so that another program can train on the same numbers
// without knowing the order of the data or the generator.
//
//   weights.safetensors  the initial weights, under the reference's names
//   draws.safetensors    for each step k: "k.source" and "k.target" [G, 3, H, W], "k.text"
//                        [G, L, C], "k.text_mask" [G, L], "k.time" [G] (r) and "k.noise"
//                        [G, c, h, w]; row i belongs to position k G + i of the run
#include "base/error.h"
#include "configs/recipe.h"
#include "data/loader.h"
#include "models/pixels/codec.h"
#include "models/weights/safetensors_io.h"
#include "trainers/options.h"
#include "trainers/sana_bridge/options.h"
#include "trainers/task.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>

namespace {

using namespace trestle;

/// The global batch of every step as the loader hands it out, and the bridge's draws for it.
std::vector<models::nn::NamedParameter> draws_of_run(const configs::Recipe& recipe,
                                                     trainers::Task& task) {
  const auto train = recipe.section<trainers::TrainOptions>("train");
  const auto options = trainers::sana_bridge::read_options(recipe);
  const models::pixels::PixelCodec codec(options.bridge.codec_factor);
  const Draws draws(options.seed);
  const data::Dataset& dataset = task.dataset(trainers::Split::train);
  const data::Sampler sampler(draws.seed(), dataset.size());
  const data::BatchPlan whole(train.global_batch, /*micro_batch=*/train.global_batch, /*rank=*/0,
                              /*world=*/1);
  data::Loader loader(dataset, sampler, whole, Step{0}, data::LoaderOptions());

  std::vector<models::nn::NamedParameter> exported;
  for (std::int64_t step = 0; step < train.steps; ++step) {
    const data::Batch batch = loader.next();
    const auto add = [&](const std::string& name, const at::Tensor& tensor) {
      exported.push_back({fmt::format("{}.{}", step, name), tensor});
    };
    for (const auto& [name, tensor] : batch.tensors) add(name, tensor);
    const at::Tensor latents_bchw =
        codec.encode(batch.tensor("source").to(options.model.scalar_type()));
    add("time", draws.uniform(batch.positions, Purpose("bridge.time"), {}, latents_bchw.options()));
    add("noise", draws.normal(batch.positions, Purpose("bridge.noise"),
                              latents_bchw.sizes().slice(1), latents_bchw.options()));
  }
  return exported;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    TRESTLE_REQUIRE(arguments.size() >= 2,
                    "recipe or folder missing (nothing to export). Usage: export_draws RECIPE.toml "
                    "FOLDER [KEY=VALUE ...]");
    const std::filesystem::path folder = arguments[1];
    const auto recipe = configs::Recipe::load(arguments[0], std::span(arguments).subspan(2));
    const auto task = trainers::task_kind_of(recipe).make(recipe, trainers::Materialise::weights);
    std::vector<models::nn::NamedParameter> weights;
    for (const auto& group : task->groups())
      weights.insert(weights.end(), group.parameters.begin(), group.parameters.end());
    models::weights::write_tensors(folder / "weights.safetensors", weights);
    models::weights::write_tensors(folder / "draws.safetensors", draws_of_run(recipe, *task));
    return 0;
  } catch (const trestle::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
