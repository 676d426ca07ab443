// Random numbers of a run: counter-based, keyed by (seed, position of the sample, purpose).
//
// Row b of a result depends on nothing but (seed, positions[b], purpose, index in the row): not on
// the rank, the number of ranks, the micro batch or the device. Uniforms have the same bits on CPU
// and CUDA, normals are equal to 1e-6. Resuming a run needs no generator state.
//
//   const Draws draws(run.seed);
//   auto noise_nchw = draws.normal(positions, Purpose("bridge.noise"), {48, 16, 16}, options);
//
// LOCAL. THREADS: any (immutable). STREAM: CUDA results are ready on the current stream.
#pragma once
#include "base/ids.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <span>

namespace trestle {

class Draws {
 public:
  explicit Draws(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t seed() const { return seed_; }

  /// U[0,1) of shape [positions, sample_shape...]; multiples of 2^-24.
  at::Tensor uniform(std::span<const Position> positions, Purpose purpose,
                     at::IntArrayRef sample_shape, const at::TensorOptions& options) const;

  /// N(0,1) of shape [positions, sample_shape...]; drawn in float, then cast to the dtype asked
  /// for.
  at::Tensor normal(std::span<const Position> positions, Purpose purpose,
                    at::IntArrayRef sample_shape, const at::TensorOptions& options) const;

  /// One N(0,1) or U[0,1) tensor that belongs to no sample (initial weights): position 0.
  at::Tensor normal(Purpose purpose, at::IntArrayRef shape, const at::TensorOptions& options) const;
  at::Tensor uniform(Purpose purpose, at::IntArrayRef shape,
                     const at::TensorOptions& options) const;

 private:
  std::uint64_t seed_;
};

}  // namespace trestle
