// A small training state in every dtype and shape that matters, for the tests of this folder.
#pragma once
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/simulated.h"

#include <ATen/ATen.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace trestle::checkpoint {

struct TestState {
  at::Tensor weight, large, half, bfloat16, moments, scalar, empty, ids, mask, transposed;
  std::int64_t step = 0;
  double loss = 0;
  std::string note;

  /// Random bits from the seed; seed 0 is all zeros, as a fresh state to load into.
  explicit TestState(std::uint64_t seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const auto random = [&](std::vector<std::int64_t> shape, at::ScalarType dtype) {
      if (seed == 0) return at::zeros(shape, dtype);
      return at::randn(shape, generator, at::kFloat).mul_(100).to(dtype);
    };
    weight = random({128, 33}, at::kFloat);
    large = random({1100, 1024}, at::kFloat);  // 4.3 MiB: more than one digest block
    half = random({7, 5}, at::kHalf);
    bfloat16 = random({64, 3, 3}, at::kBFloat16);
    moments = random({257, 511}, at::kDouble);
    scalar = random({}, at::kFloat);
    empty = random({0, 4}, at::kFloat);
    ids = random({1000}, at::kLong);
    mask = random({77}, at::kFloat) > 0;
    transposed = random({40, 30}, at::kFloat).t();  // strides of its own
    if (seed != 0) {
      step = static_cast<std::int64_t>(seed) * 1'000'000'007;
      loss = 1.0 / static_cast<double>(seed + 2);
      note = "seed \"" + std::to_string(seed) + "\" \xC3\xA9\n";
    }
  }

  Visitor visitor() {
    return [this](Scope& scope) {
      Scope model = scope.child("model");
      model.tensor("blocks.0.weight", weight);
      model.tensor("blocks.0.large", large);
      model.tensor("half", half);
      model.tensor("bfloat16", bfloat16);
      model.tensor("transposed", transposed);
      Scope optim = scope.child("optim/exp_avg");
      optim.tensor("moments", moments);
      optim.tensor("scalar", scalar);
      optim.tensor("empty", empty);
      scope.tensor("data/ids", ids);
      scope.tensor("data/mask", mask);
      scope.number("trainer/step", step);
      scope.number("trainer/loss", loss);
      scope.text("trainer/note", note);
    };
  }

  std::vector<at::Tensor> tensors() const {
    return {weight, large, half, bfloat16, moments, scalar, empty, ids, mask, transposed};
  }
};

/// Equal bits, so that NaN and -0 count.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         (x.nbytes() == 0 ||  // an empty tensor has no pointer for memcmp
          std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0);
}

inline bool same_state(const TestState& a, const TestState& b) {
  const auto x = a.tensors(), y = b.tensors();
  for (std::size_t i = 0; i < x.size(); ++i)
    if (!same_bits(x[i], y[i])) return false;
  return a.step == b.step && std::memcmp(&a.loss, &b.loss, 8) == 0 && a.note == b.note;
}

/// Saves the state as `world` simulated ranks (threads of this process).
inline std::filesystem::path save_as(int world, TestState& state,
                                     const std::filesystem::path& folder, std::int64_t step,
                                     bool index = false) {
  const StateTree tree = collect(state.visitor());
  std::filesystem::path made;
  dist::simulate(world, [&](dist::Communicator comm) {
    SaveRequest request;
    request.folder = folder;
    request.step = step;
    request.recipe_toml = "[run]\ntask = \"test\"\n";
    request.recipe_hash = "0123456789abcdef";
    request.index = index;
    const auto path = save(comm, tree, request);
    if (comm.is_root()) made = path;
  });
  return made;
}

}  // namespace trestle::checkpoint
