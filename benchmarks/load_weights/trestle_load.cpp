// Trestle's side of benchmarks/load_weights: loads a folder into one flat buffer, as training holds
// its parameters, and says when every byte was in its place.
//
// A process loads once. It says a line when it has started; the clock runs from the request for the
// load: opening the files, checking names and shapes against the model, allocating, reading.
#include "base/error.h"
#include "base/files.h"
#include "benchmarks/process_memory.h"
#include "benchmarks/rounds.h"
#include "configs/json.h"
#include "models/sana/transformer.h"
#include "models/weights/load.h"

#include <ATen/ATen.h>

#include <filesystem>

namespace {

using namespace trestle;
using models::nn::NamedParameter;

/// The model's parameters as views into one buffer that nobody has filled.
std::vector<NamedParameter> parameters_of(const std::string& config_file) {
  const auto config = configs::from_json<models::sana::SanaConfig>(
      read_text_file(config_file, 1 << 20, ExitCode::data), config_file);
  models::nn::Parameters shapes(at::TensorOptions().dtype(at::kBFloat16).device(at::kMeta),
                                Draws(0));
  const models::sana::SanaTransformer model(config, shapes.root());
  const at::Tensor flat = at::empty({shapes.numel()}, at::kBFloat16);
  std::vector<NamedParameter> parameters;
  std::int64_t begin = 0;
  for (const auto& [name, shape] : shapes.all()) {
    parameters.push_back({name, flat.narrow(0, begin, shape.numel()).view(shape.sizes())});
    begin += shape.numel();
  }
  return parameters;
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path folder;
  int threads = 0;
  CLI::App app("Loads a folder of weights, once.");
  app.add_option("--folder", folder)->required();
  app.add_option("--threads", threads);
  return benchmarks::run(app, argc, argv, [&] {
    benchmarks::serve({{"go", [&](std::int64_t) {
                          const benchmarks::PeakMemory memory;
                          const benchmarks::Stopwatch watch;
                          const auto parameters = parameters_of((folder / "config.json").string());
                          const auto report = models::weights::load_parameters(
                              models::weights::Source::open(folder), parameters,
                              {.threads = threads});
                          const double seconds = watch.wall_s();
                          return nlohmann::json{{"seconds", seconds},
                                                {"cpu_seconds", watch.cpu_s()},
                                                {"reading_seconds", report.seconds},
                                                {"bytes", report.bytes},
                                                {"grown_bytes", memory.grown_bytes()}};
                        }}});
  });
}
