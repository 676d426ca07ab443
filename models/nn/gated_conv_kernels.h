// The loops behind gated_conv.h, for one sample and one block of channels. LOCAL, single-threaded.
#pragma once
#include <cstdint>

namespace trestle::models::nn::fused {

constexpr std::int64_t kTaps = 9;
// Channels with their gates in one block; fewer where a model has fewer.
constexpr std::int64_t kFewestPairs = 64, kMostPairs = 160;
constexpr std::int64_t kParameters = kTaps + 2;  // rows of a gradient: taps, conv bias, bias

struct GatedConv {
  std::int64_t height, width, half;      // 2 half channels in, half out
  const float *bias, *taps, *conv_bias;  // [2 half], [2 half, 9], [2 half]

  std::int64_t pairs;  // channels of a block, of half: block_pairs()

  std::int64_t tokens() const { return height * width; }
  /// Floats of a block at one pixel: values, then gates.
  std::int64_t block_width() const { return 2 * pairs; }
  /// Floats of scratch memory, zeros at first; one scratch serves any number of blocks.
  std::int64_t forward_scratch() const { return (height + 2) * (width + 2) * block_width(); }
  std::int64_t backward_scratch() const { return 2 * forward_scratch() + tokens() * block_width(); }
};

/// How many channels a block takes: what a block reads of a token is then long enough for the
/// processor to fetch ahead, and backward's scratch stays in its second-level cache if the picture
/// lets it. A multiple of the vectors' length; the result does not depend on it.
std::int64_t block_pairs(std::int64_t height, std::int64_t width, std::int64_t half);

/// x [N, 2 half], y [N, half]: of y the channels [first, first + pairs) are written.
void gated_conv_forward(const GatedConv& conv, std::int64_t first, const float* x, float* y,
                        float* scratch);
/// dx like x; dparameters [kParameters, 2 half]: this block's channels are overwritten.
void gated_conv_backward(const GatedConv& conv, std::int64_t first, const float* x, const float* dy,
                         float* dx, float* dparameters, float* scratch);

}  // namespace trestle::models::nn::fused
