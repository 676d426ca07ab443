#include "models/nn/gated_conv_kernels.h"

#include "models/nn/vector_math.h"

#include <algorithm>

// Buffers hold block_width() floats a pixel: the block's values, then their gates; channels that
// the last block lacks are zeros. Buffers of pictures carry a border of zeros, so no tap needs a
// condition.

namespace trestle::models::nn::fused {
namespace {

constexpr std::int64_t kMostWidth = 2 * kMostPairs;
/// Of backward's scratch. The smallest second-level caches in use have 1 to 2 MB.
constexpr std::int64_t kScratchFloats = 320 << 10;

/// Where the block's channels lie in a tensor of 2 half channels.
struct Block {
  std::int64_t first, count, half, pairs;
  std::int64_t width() const { return 2 * pairs; }
};

TRESTLE_INLINE Block block_of(const GatedConv& conv, std::int64_t first) {
  return {first, std::min(conv.pairs, conv.half - first), conv.half, conv.pairs};
}

TRESTLE_INLINE void gather(const Block& block, const float* row, float* to) {
  if (block.count < block.pairs) std::fill(to, to + block.width(), 0.0f);
  copy(row + block.first, to, block.count);
  copy(row + block.half + block.first, to + block.pairs, block.count);
}

TRESTLE_INLINE void scatter(const Block& block, const float* from, float* row) {
  copy(from, row + block.first, block.count);
  copy(from + block.pairs, row + block.half + block.first, block.count);
}

struct Parameters {
  alignas(64) float bias[kMostWidth], conv_bias[kMostWidth], taps[kTaps][kMostWidth];
};

TRESTLE_INLINE void gather_parameters(const GatedConv& conv, const Block& block, Parameters& to) {
  gather(block, conv.bias, to.bias);
  gather(block, conv.conv_bias, to.conv_bias);
  for (std::int64_t c = 0; c < block.count; ++c) {
    for (std::int64_t tap = 0; tap < kTaps; ++tap) {
      to.taps[tap][c] = conv.taps[(block.first + c) * kTaps + tap];
      to.taps[tap][block.pairs + c] = conv.taps[(conv.half + block.first + c) * kTaps + tap];
    }
  }
}

/// Offsets of a pixel's nine neighbours in a picture with a border, row-major like a conv's weight.
struct Neighbours {
  std::int64_t offset[kTaps];
};

TRESTLE_INLINE Neighbours neighbours(const GatedConv& conv) {
  Neighbours near{};
  for (std::int64_t tap = 0; tap < kTaps; ++tap) {
    near.offset[tap] = ((tap / 3 - 1) * (conv.width + 2) + (tap % 3 - 1)) * conv.block_width();
  }
  return near;
}

TRESTLE_INLINE float* pixel(const GatedConv& conv, float* picture, std::int64_t row,
                            std::int64_t column) {
  return picture + ((row + 1) * (conv.width + 2) + column + 1) * conv.block_width();
}

/// The convolution at one pixel, bias included.
TRESTLE_INLINE void convolve(const Parameters& p, const Neighbours& near, std::int64_t width,
                             const float* at, float* to) {
  for (std::int64_t c = 0; c < width; c += kLanes) {
    Lanes value = load(p.conv_bias + c);
    for (std::int64_t tap = 0; tap < kTaps; ++tap) {
      value += load(p.taps[tap] + c) * load(at + near.offset[tap] + c);
    }
    store(to + c, value);
  }
}

}  // namespace

std::int64_t block_pairs(std::int64_t height, std::int64_t width, std::int64_t half) {
  GatedConv one{};
  one.height = height;
  one.width = width;
  one.pairs = 1;
  const std::int64_t most =
      std::clamp(kScratchFloats / one.backward_scratch(), kFewestPairs, kMostPairs);
  const std::int64_t blocks = (half + most - 1) / most;
  return round_up((half + blocks - 1) / blocks, kLanes);
}

TRESTLE_CLONES void gated_conv_forward(const GatedConv& conv, std::int64_t first, const float* x,
                                       float* y, float* scratch) {
  const Block block = block_of(conv, first);
  const std::int64_t pairs = block.pairs, width = block.width();
  const Neighbours near = neighbours(conv);
  Parameters p{};
  gather_parameters(conv, block, p);
  alignas(64) float values[kMostWidth];

  for (std::int64_t row = 0; row < conv.height; ++row) {
    for (std::int64_t column = 0; column < conv.width; ++column) {
      gather(block, x + (row * conv.width + column) * 2 * conv.half, values);
      float* const active = pixel(conv, scratch, row, column);
      for (std::int64_t c = 0; c < width; c += kLanes) {
        store(active + c, silu(load(values + c) + load(p.bias + c)));
      }
    }
  }
  for (std::int64_t row = 0; row < conv.height; ++row) {
    for (std::int64_t column = 0; column < conv.width; ++column) {
      convolve(p, near, width, pixel(conv, scratch, row, column), values);
      for (std::int64_t c = 0; c < pairs; c += kLanes) {
        store(values + c, load(values + c) * silu(load(values + pairs + c)));
      }
      copy(values, y + (row * conv.width + column) * conv.half + first, block.count);
    }
  }
}

TRESTLE_CLONES void gated_conv_backward(const GatedConv& conv, std::int64_t first, const float* x,
                                        const float* dy, float* dx, float* dparameters,
                                        float* scratch) {
  const Block block = block_of(conv, first);
  const std::int64_t pairs = block.pairs, width = block.width();
  const Neighbours near = neighbours(conv);
  Parameters p{};
  gather_parameters(conv, block, p);
  float* const activated = scratch;
  float* const dmixed = activated + conv.forward_scratch();
  float* const slopes = dmixed + conv.forward_scratch();  // d SiLU, one row a token
  alignas(64) float values[kMostWidth], upstream[kMostPairs] = {};
  alignas(64) float dtaps[kTaps][kMostWidth] = {}, dconv_bias[kMostWidth] = {},
                    dbias[kMostWidth] = {};

  for (std::int64_t row = 0; row < conv.height; ++row) {  // SiLU again, and its slope
    for (std::int64_t column = 0; column < conv.width; ++column) {
      const std::int64_t token = row * conv.width + column;
      gather(block, x + token * 2 * conv.half, values);
      float* const active = pixel(conv, activated, row, column);
      for (std::int64_t c = 0; c < width; c += kLanes) {
        const Lanes value = load(values + c) + load(p.bias + c);
        const Lanes s = sigmoid(value);
        store(active + c, value * s);
        store(slopes + token * width + c, silu_slope(value, s));
      }
    }
  }
  for (std::int64_t row = 0; row < conv.height; ++row) {  // the gate's gradient
    for (std::int64_t column = 0; column < conv.width; ++column) {
      const std::int64_t token = row * conv.width + column;
      convolve(p, near, width, pixel(conv, activated, row, column), values);
      copy(dy + token * conv.half + first, upstream, block.count);
      float* const to = pixel(conv, dmixed, row, column);
      for (std::int64_t c = 0; c < pairs; c += kLanes) {
        const Lanes gate = load(values + pairs + c), d = load(upstream + c);
        const Lanes s = sigmoid(gate);
        store(to + c, d * (gate * s));
        store(to + pairs + c, d * load(values + c) * silu_slope(gate, s));
      }
    }
  }
  for (std::int64_t c = 0; c < width; c += kLanes) {  // the convolution's weights, row by row
    for (std::int64_t row = 0; row < conv.height; ++row) {
      Lanes dtap[kTaps] = {}, dlevel{};
      for (std::int64_t column = 0; column < conv.width; ++column) {
        const Lanes d = load(pixel(conv, dmixed, row, column) + c);
        const float* at = pixel(conv, activated, row, column) + c;
        dlevel += d;
        for (std::int64_t tap = 0; tap < kTaps; ++tap) dtap[tap] += d * load(at + near.offset[tap]);
      }
      for (std::int64_t tap = 0; tap < kTaps; ++tap) {
        store(dtaps[tap] + c, load(dtaps[tap] + c) + dtap[tap]);
      }
      store(dconv_bias + c, load(dconv_bias + c) + dlevel);
    }
  }
  for (std::int64_t row = 0; row < conv.height; ++row) {  // back through the taps and SiLU
    alignas(64) float drow[kMostWidth] = {};
    for (std::int64_t column = 0; column < conv.width; ++column) {
      const std::int64_t token = row * conv.width + column;
      const float* at = pixel(conv, dmixed, row, column);
      for (std::int64_t c = 0; c < width; c += kLanes) {
        Lanes d{};
        for (std::int64_t tap = 0; tap < kTaps; ++tap) {
          d += load(p.taps[tap] + c) * load(at - near.offset[tap] + c);
        }
        d *= load(slopes + token * width + c);
        store(drow + c, load(drow + c) + d);
        store(values + c, d);
      }
      scatter(block, values, dx + token * 2 * conv.half);
    }
    for (std::int64_t c = 0; c < width; ++c) dbias[c] += drow[c];
  }

  for (std::int64_t tap = 0; tap < kTaps; ++tap) {
    scatter(block, dtaps[tap], dparameters + tap * 2 * conv.half);
  }
  scatter(block, dconv_bias, dparameters + kTaps * 2 * conv.half);
  scatter(block, dbias, dparameters + (kTaps + 1) * 2 * conv.half);
}

}  // namespace trestle::models::nn::fused
