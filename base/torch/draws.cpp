#include "base/torch/draws.h"

#include "base/error.h"
#include "base/torch/draw_block.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace trestle {
namespace {

void fill_draws_cpu(float* out, std::span<const Position> positions, std::int64_t row_size,
                    std::uint64_t seed, std::uint32_t purpose, detail::DrawKind kind) {
  const std::int64_t blocks = (row_size + 3) / 4;
  const auto num_rows = static_cast<std::int64_t>(positions.size());
  at::parallel_for(0, num_rows * blocks, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / blocks;
      const std::int64_t block = i % blocks;
      float four[4];
      detail::draw_block(seed, positions[row].value, purpose, static_cast<std::uint32_t>(block),
                         kind, four);
      const std::int64_t count = std::min<std::int64_t>(4, row_size - 4 * block);
      std::copy_n(four, count, out + row * row_size + 4 * block);
    }
  });
}

at::Tensor draw(std::uint64_t seed, std::span<const Position> positions, Purpose purpose,
                at::IntArrayRef sample_shape, const at::TensorOptions& options,
                detail::DrawKind kind) {
  const auto num_rows = static_cast<std::int64_t>(positions.size());
  std::vector<std::int64_t> shape = {num_rows};
  shape.insert(shape.end(), sample_shape.begin(), sample_shape.end());
  const auto float_options = options.dtype(at::kFloat).requires_grad(false);
  at::Tensor out = at::empty(shape, float_options);
  if (out.device().is_meta() || out.numel() == 0) return out.to(options.dtype());
  const std::int64_t row_size = out.numel() / num_rows;
  TRESTLE_ASSERT(row_size / 4 < (std::int64_t{1} << 32), "a draw of {} numbers per sample",
                 row_size);
  if (out.is_cuda()) {
#ifdef TRESTLE_WITH_CUDA
    std::vector<std::int64_t> host(positions.size());
    std::ranges::transform(positions, host.begin(), &Position::value);
    const at::Tensor device_positions = at::tensor(host, at::kLong).to(out.device());
    detail::fill_draws_cuda(out.data_ptr<float>(), device_positions.data_ptr<std::int64_t>(),
                            num_rows, row_size, seed, purpose.id, kind);
#else
    fail(ExitCode::environment,
         "random draws were asked for on {} (this program was built with TRESTLE_CUDA=OFF). Build "
         "with -DTRESTLE_CUDA=ON, or run on the CPU.",
         out.device().str());
#endif
  } else {
    fill_draws_cpu(out.data_ptr<float>(), positions, row_size, seed, purpose.id, kind);
  }
  return out.to(options.dtype());
}

}  // namespace

at::Tensor Draws::uniform(std::span<const Position> positions, Purpose purpose,
                          at::IntArrayRef sample_shape, const at::TensorOptions& options) const {
  return draw(seed_, positions, purpose, sample_shape, options, detail::DrawKind::uniform);
}

at::Tensor Draws::normal(std::span<const Position> positions, Purpose purpose,
                         at::IntArrayRef sample_shape, const at::TensorOptions& options) const {
  return draw(seed_, positions, purpose, sample_shape, options, detail::DrawKind::normal);
}

at::Tensor Draws::normal(Purpose purpose, at::IntArrayRef shape,
                         const at::TensorOptions& options) const {
  const Position origin{0};
  return normal(std::span(&origin, 1), purpose, shape, options).squeeze(0);
}

at::Tensor Draws::uniform(Purpose purpose, at::IntArrayRef shape,
                          const at::TensorOptions& options) const {
  const Position origin{0};
  return uniform(std::span(&origin, 1), purpose, shape, options).squeeze(0);
}

}  // namespace trestle
