// Steps AdamW over shards of random state, a round at a time, and says how fast: the contender of
// torch_pass.py, with the same options and the same "go N" protocol.
//
// --kind pass    trainers::FusedAdamW: clip scale, AdamW, one moving average, bf16 copy, zeroing
// --kind stream  no optimizer but the same reads and writes: what the machine's memory allows
//
// Both run on torch's threads. --tensors is the number of shards, --elements of all together.
#include "base/torch/draws.h"
#include "benchmarks/rounds.h"
#include "models/nn/vector_math.h"
#include "trainers/optim/fused_adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace trestle;
using trainers::Shard;

struct Arguments {
  std::string kind = "pass";
  std::int64_t elements = std::int64_t{1} << 26, tensors = 64, threads = 2;
};

/// The state in flat buffers, as training holds it, cut into shards.
std::vector<Shard> make_shards(const Arguments& arguments) {
  const auto flat = [&](double scale, const char* what) {
    return Draws(1).normal(Purpose(what), {arguments.elements}, at::kFloat).mul_(scale);
  };
  const at::Tensor master = flat(1, "master"), gradient = flat(1e-3, "gradient");
  const at::Tensor exp_avg = flat(1e-3, "exp_avg"), exp_avg_sq = flat(1e-3, "exp_avg_sq").square_();
  const at::Tensor average = master.clone(), parameter = master.to(at::kBFloat16);
  std::vector<Shard> shards;
  for (std::int64_t i = 0; i < arguments.tensors; ++i) {
    const auto cut = [&](const at::Tensor& whole) {
      return whole.slice(0, arguments.elements * i / arguments.tensors,
                         arguments.elements * (i + 1) / arguments.tensors);
    };
    shards.push_back({.master = cut(master),
                      .gradient = cut(gradient),
                      .state = {cut(exp_avg), cut(exp_avg_sq)},
                      .averages = {{.values = cut(average), .decay = 0.999}},
                      .parameter = cut(parameter)});
  }
  return shards;
}

/// Adds to each number of a plane: reads it, writes it.
TRESTLE_INLINE void touch(float* __restrict plane, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) plane[i] += 1.0f;
}

/// Reads and writes what the pass does. By tiles, plane after plane: of the orders tried the one
/// that memory serves fastest.
TRESTLE_CLONES void stream_piece(const std::array<float*, 5>& planes, std::uint16_t* copy,
                                 std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kTile = 1024;
  for (std::int64_t at = begin; at < end; at += kTile) {
    const std::int64_t count = std::min(kTile, end - at);
    for (float* plane : planes) touch(plane + at, count);
    std::memset(copy + at, 1, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
  }
}

void stream(const Shard& shard) {
  const auto data = [](const at::Tensor& plane) { return plane.mutable_data_ptr<float>(); };
  const std::array planes = {data(shard.gradient), data(shard.state[0]), data(shard.state[1]),
                             data(shard.master), data(shard.averages[0].values)};
  auto* copy = reinterpret_cast<std::uint16_t*>(shard.parameter.mutable_data_ptr<at::BFloat16>());
  at::parallel_for(0, shard.master.numel(), 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    stream_piece(planes, copy, begin, end);
  });
}

void measure(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const std::vector<Shard> shards = make_shards(arguments);
  const trainers::FusedAdamW optimizer({});
  std::int64_t count = 0;
  benchmarks::serve({{"go", [&](std::int64_t steps) {
                        const benchmarks::Stopwatch watch;
                        for (std::int64_t i = 0; i < steps; ++i) {
                          const trainers::StepScalars scalars{.learning_rate = 1e-4,
                                                              .gradient_scale = 0.5,
                                                              .count = ++count,
                                                              .zero_gradient = true,
                                                              .sums = {}};
                          for (const Shard& shard : shards) {
                            if (arguments.kind == "pass")
                              optimizer.step(shard, scalars);
                            else
                              stream(shard);
                          }
                        }
                        return nlohmann::json{
                            {"ms_per_step", 1e3 * watch.wall_s() / double(steps)},
                            {"cpu_ms_per_step", 1e3 * watch.cpu_s() / double(steps)},
                            {"elements", arguments.elements}};
                      }}});
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of optimizer_pass: answers \"go N\" on standard input");
  app.add_option("--kind", arguments.kind)->check(CLI::IsMember({"pass", "stream"}));
  app.add_option("--elements", arguments.elements, "of the state");
  app.add_option("--tensors", arguments.tensors, "shards");
  app.add_option("--threads", arguments.threads);
  return benchmarks::run(app, argc, argv, [&] { measure(arguments); });
}
