#include "models/pixels/codec.h"

#include <ATen/ATen.h>

namespace trestle::models::pixels {

at::Tensor PixelCodec::encode(const at::Tensor& pictures_bchw) const {
  return at::pixel_unshuffle(pictures_bchw, factor_);
}

at::Tensor PixelCodec::decode(const at::Tensor& latents_bchw) const {
  return at::pixel_shuffle(latents_bchw, factor_);
}

}  // namespace trestle::models::pixels
