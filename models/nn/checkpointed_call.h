// Gradient checkpointing: a segment of a model keeps its inputs only, and backward computes the
// segment anew (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
//
//   // all blocks in turn, two to a segment; text is read by each of them
//   x = nn::run_blocks(blocks.size(), /*checkpoint_every=*/2, block, {x}, {text})[0];
//   // or one segment by hand
//   const nn::Tensors y_and_hidden = nn::checkpointed_call(segment, {x, text}, adapters);
//
// RESULTS: outputs, loss and gradients have the same bits as without checkpointing, since the same
// operations run in the same order. One exception: a parameter that the functions of several
// segments use gets one addition to its .grad a segment instead of one in all. That is another
// order of summation where a segment uses it twice or .grad already held something (accumulation).
// Pass such a parameter in `shared` of run_blocks, or as an input, and the bits are the same again.
// WHAT IS KEPT: inputs, `extra`, and what the function captured by value. Whatever it captured by
// reference (a model, say) must live until backward. Parameters must not change in between; inputs
// must not be changed in place (backward notices that and throws).
// RANDOM NUMBERS inside a segment come from Draws, which are functions of what they are asked for,
// so the recomputation draws the same and no generator's state needs to be kept.
// AUTOGRAD: re-entrant: a segment's backward runs a backward of its own, which adds to the .grad of
// the parameters. Therefore only backward() over all leaves can pass through a segment, not
// autograd::grad, backward(inputs) or create_graph; these throw. A gradient hook of a parameter
// fires once a segment that uses it. What a loss wants to see from inside must be an output.
// Where gradients are off (evaluation), the function is called and nothing else happens.
// LOCAL: no communication inside a segment; ranks need not recompute at the same time.
// THREADS: backward calls the function on the thread that runs backward.
#pragma once
#include <ATen/core/TensorBody.h>

#include <any>
#include <cstdint>
#include <functional>
#include <vector>

namespace trestle::models::nn {

using Tensors = std::vector<at::Tensor>;

/// Part of a model: tensors in, tensors out, some of either perhaps undefined. It is called a
/// second time in backward, with the same values, and must then do the same. `extra` is whatever
/// the caller gave, for arguments that are no tensors (which adapters are active, whose dropout).
using Segment = std::function<Tensors(const Tensors& inputs, const std::any& extra)>;

Tensors checkpointed_call(Segment segment, const Tensors& inputs, std::any extra = {});

/// Whether a segment that backward will compute anew (or does just now) is running on this thread:
/// no place for what must happen once, such as communication.
bool inside_checkpointed_segment();

/// Block `index` of a model: `carried` goes from block to block (a block may return more tensors
/// than it got, and hands on those that are not its own), `shared` is read by every block.
using Block = std::function<Tensors(std::size_t index, const Tensors& carried,
                                    const Tensors& shared, const std::any& extra)>;

/// Calls blocks 0 to count - 1 and returns what the last one carries on. Every `checkpoint_every`
/// blocks are a segment; 0: none are. However that is, each block sums its gradients of a shared
/// tensor first, and the blocks' sums are added from the last block to the first.
Tensors run_blocks(std::size_t count, std::int64_t checkpoint_every, const Block& block,
                   Tensors carried, const Tensors& shared, const std::any& extra = {});

}  // namespace trestle::models::nn
