// The codec `pixels`: pictures to latents by space-to-depth, and exactly back. It stands where an
// autoencoder stands in a latent model, costs nothing, and loses nothing.
//
// Latent channel order is that of at::pixel_unshuffle: (colour, row in the cell, column in the
// cell). LOCAL. THREADS: any. STREAM: the current one.
#pragma once
#include <ATen/core/TensorBody.h>

#include <cstdint>

namespace trestle::models::pixels {

class PixelCodec {
 public:
  /// A cell of factor x factor pixels becomes one latent pixel of 3 * factor² channels.
  explicit PixelCodec(std::int64_t factor) : factor_(factor) {}

  /// [B, 3, H, W] -> [B, 3 f², H/f, W/f]; H and W must be multiples of the factor.
  at::Tensor encode(const at::Tensor& pictures_bchw) const;
  /// The exact inverse.
  at::Tensor decode(const at::Tensor& latents_bchw) const;

  std::int64_t factor() const { return factor_; }
  std::int64_t channels() const { return 3 * factor_ * factor_; }

 private:
  std::int64_t factor_;
};

}  // namespace trestle::models::pixels
