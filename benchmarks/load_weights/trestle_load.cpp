// Trestle's side of benchmarks/load_weights: loads a folder into one flat buffer, as training holds
// its parameters, and says when every byte was in its place.
//
// A process loads once. "start 1" is answered as soon as it has started; the clock runs from the
// request for the load: opening the files, checking names and shapes against the model, allocating,
// reading. With --memory-only nothing is read: the threads take the memory that the weights would
// fill.
#include "base/allocator.h"
#include "base/error.h"
#include "base/files.h"
#include "benchmarks/process_memory.h"
#include "benchmarks/rounds.h"
#include "models/sana/transformer.h"
#include "models/weights/load.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

namespace {

using namespace trestle;
using models::nn::NamedParameter;

/// The model's parameters as views into one buffer that nobody has filled.
std::vector<NamedParameter> parameters_of(const std::string& config_file) {
  const auto config = models::sana::config_from_json(
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

/// Threads populate pieces of a buffer of these parameters' size in turn; returns its bytes.
std::size_t take_memory(const std::vector<NamedParameter>& parameters, int threads) {
  constexpr std::size_t kPieceBytes = 16 << 20;
  const at::Tensor& first = parameters.front().tensor;
  const std::span<std::byte> memory(static_cast<std::byte*>(first.mutable_data_ptr()),
                                    first.storage().nbytes());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t at = 0; (at = kPieceBytes * next++) < memory.size();) {
      TRESTLE_ASSERT(populate(memory.subspan(at, std::min(kPieceBytes, memory.size() - at))),
                     "the kernel does not populate memory");
    }
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  return memory.size();
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path folder;
  int threads = 1;
  bool memory_only = false;
  CLI::App app("Loads a folder of weights, once.");
  app.add_option("--folder", folder)->required();
  app.add_option("--threads", threads);
  app.add_flag("--memory-only", memory_only);
  return benchmarks::run(app, argc, argv, [&] {
    benchmarks::serve({{"start", [](std::int64_t) { return nlohmann::json::object(); }},
                       {"go", [&](std::int64_t) {
                          const benchmarks::PeakMemory memory;
                          const benchmarks::Stopwatch watch;
                          const auto parameters = parameters_of((folder / "config.json").string());
                          const std::size_t bytes = memory_only
                                                        ? take_memory(parameters, threads)
                                                        : models::weights::load_parameters(
                                                              models::weights::Source::open(folder),
                                                              parameters, {.threads = threads})
                                                              .bytes;
                          return nlohmann::json{{"seconds", watch.wall_s()},
                                                {"cpu_seconds", watch.cpu_s()},
                                                {"bytes", bytes},
                                                {"grown_bytes", memory.grown_bytes()}};
                        }}});
  });
}
