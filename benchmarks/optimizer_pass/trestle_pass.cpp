// Steps AdamW over shards of random state, a round at a time, and says how fast: the contender of
// torch_pass.py, with the same options and the same "go N" protocol.
//
// --kind pass    trainers::FusedAdamW: clip scale, AdamW, one moving average, bf16 copy, zeroing
// --kind stream  no optimizer but the same reads and writes: what the machine's memory allows
//
// Both run on torch's threads. --tensors is the number of shards, --elements of all together.
#include "base/allocator.h"
#include "base/error.h"
#include "base/torch/draws.h"
#include "models/nn/vector_math.h"
#include "trainers/optim/fused_adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <ctime>
#include <iostream>

namespace {

using namespace trestle;
using trainers::Shard;

struct Arguments {
  std::string kind = "pass";
  std::int64_t elements = std::int64_t{1} << 26, tensors = 64, threads = 2;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  TRESTLE_REQUIRE(argc % 2 == 1, "{} has no value.", argv[argc - 1]);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--kind")
      arguments.kind = argv[i + 1];
    else if (name == "--elements")
      arguments.elements = std::stoll(argv[i + 1]);
    else if (name == "--tensors")
      arguments.tensors = std::stoll(argv[i + 1]);
    else if (name == "--threads")
      arguments.threads = std::stoll(argv[i + 1]);
    else
      fail(ExitCode::usage, "{} is no option (--kind, --elements, --tensors, --threads).", name);
  }
  TRESTLE_REQUIRE(arguments.kind == "pass" || arguments.kind == "stream",
                  "--kind {} is neither pass nor stream.", arguments.kind);
  return arguments;
}

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

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

void serve(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  const std::vector<Shard> shards = make_shards(arguments);
  const trainers::FusedAdamW optimizer({});
  std::int64_t count = 0;
  for (std::string word; std::cin >> word;) {
    std::int64_t steps = 0;
    TRESTLE_REQUIRE(word == "go" && std::cin >> steps && steps > 0,
                    "\"{}\" is not a round (say \"go N\" with N >= 1).", word);
    const auto started = std::chrono::steady_clock::now();
    const double cpu_started = cpu_seconds();
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
    const double wall =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    std::cout << nlohmann::json{{"ms_per_step", 1e3 * wall / double(steps)},
                                {"cpu_ms_per_step",
                                 1e3 * (cpu_seconds() - cpu_started) / double(steps)},
                                {"elements", arguments.elements}}
                     .dump()
              << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  trestle::keep_freed_memory();  // as launch/main.cpp does
  try {
    serve(parse(argc, argv));
    return 0;
  } catch (const trestle::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
