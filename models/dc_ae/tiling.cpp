#include "models/dc_ae/tiling.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace trestle::models::dc_ae {
namespace {

/// `next` with its first `extent` rows (axis 2) or columns (axis 3) faded in from the last ones of
/// `before`. Both products are rounded to the dtype before they are added, as the reference does.
at::Tensor blended(const at::Tensor& before, const at::Tensor& next, std::int64_t axis,
                   std::int64_t extent) {
  extent = std::min({extent, before.size(axis), next.size(axis)});
  if (extent <= 0) return next;
  const auto dtype = next.scalar_type();
  const auto wide = dtype == at::kBFloat16 || dtype == at::kHalf ? at::kFloat : dtype;
  at::Tensor share = at::arange(extent, at::TensorOptions(at::kDouble)) / double(extent);
  if (axis == 2) share = share.unsqueeze(1);
  const auto times = [&](const at::Tensor& x, const at::Tensor& weight) {
    return (x.to(wide) * weight.to(x.device(), wide)).to(dtype);
  };
  const at::Tensor faded = times(before.slice(axis, before.size(axis) - extent), 1 - share) +
                           times(next.slice(axis, 0, extent), share);
  return at::cat({faded, next.slice(axis, extent)}, axis);
}

}  // namespace

Tiling Tiling::divided_by(std::int64_t factor) const {
  return {.tile_height = tile_height / factor,
          .tile_width = tile_width / factor,
          .stride_height = stride_height / factor,
          .stride_width = stride_width / factor};
}

bool Tiling::is_needed(std::int64_t height, std::int64_t width) const {
  return height > tile_height || width > tile_width;
}

void require_sound(const Tiling& tiling, std::int64_t compression) {
  const auto check = [&](const char* side, std::int64_t tile, std::int64_t stride) {
    TRESTLE_REQUIRE(stride >= 1 && stride <= tile,
                    "tile_{0} = {1} with stride_{0} = {2} leaves gaps (tiles must overlap or "
                    "meet). Give a stride from 1 to the tile's size.",
                    side, tile, stride);
    TRESTLE_REQUIRE(tile % compression == 0 && stride % compression == 0,
                    "tile_{0} = {1} and stride_{0} = {2} are not multiples of {3} (the pixels of a "
                    "latent pixel's side, so that tiles meet in the latents, too). Give multiples.",
                    side, tile, stride, compression);
  };
  check("height", tiling.tile_height, tiling.stride_height);
  check("width", tiling.tile_width, tiling.stride_width);
}

at::Tensor map_tiles(const at::Tensor& x_bchw, const Tiling& in, const Tiling& out,
                     const std::function<at::Tensor(const at::Tensor&)>& f) {
  std::vector<at::Tensor> above, strips;  // the row of tiles before this one, blended
  for (std::int64_t top = 0; top < x_bchw.size(2); top += in.stride_height) {
    std::vector<at::Tensor> row, kept;
    for (std::int64_t left = 0; left < x_bchw.size(3); left += in.stride_width) {
      at::Tensor tile =
          f(x_bchw.slice(2, top, top + in.tile_height).slice(3, left, left + in.tile_width));
      if (!above.empty()) {
        tile = blended(above[row.size()], tile, 2, out.tile_height - out.stride_height);
      }
      if (!row.empty()) tile = blended(row.back(), tile, 3, out.tile_width - out.stride_width);
      row.push_back(tile);
      kept.push_back(tile.slice(2, 0, out.stride_height).slice(3, 0, out.stride_width));
    }
    strips.push_back(at::cat(kept, 3));
    above = std::move(row);
  }
  return at::cat(strips, 2);
}

}  // namespace trestle::models::dc_ae
