// A large picture in overlapping tiles, as diffusers' tiled_encode and tiled_decode take it: each
// tile goes through the model alone, overlaps are blended linearly, downwards then to the right.
// Attention sees only its tile, so the result differs from that of the whole picture.
// LOCAL. THREADS: any. MEMORY: all tiles' results, until they are joined.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>

namespace trestle::models::dc_ae {

/// A grid of tiles, in pixels of a picture. Defaults are diffusers'.
struct Tiling {
  std::int64_t tile_height = 512, tile_width = 512;
  std::int64_t stride_height = 448, stride_width = 448;  ///< from one tile's edge to the next one's

  /// The same grid where a pixel is `factor` pixels wide.
  Tiling divided_by(std::int64_t factor) const;
  bool is_needed(std::int64_t height, std::int64_t width) const;
};

/// Throws Error(usage) unless strides are at most tiles and all are multiples of `compression`.
void require_sound(const Tiling& tiling, std::int64_t compression);

/// f of each tile of x [B, C, H, W] in the grid `in`, joined in the grid `out`.
at::Tensor map_tiles(const at::Tensor& x_bchw, const Tiling& in, const Tiling& out,
                     const std::function<at::Tensor(const at::Tensor&)>& f);

}  // namespace trestle::models::dc_ae
