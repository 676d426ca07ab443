#include "models/nn/checkpointed_call.h"

#include "base/error.h"
#include "base/torch/autograd_node.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <memory>

namespace trestle::models::nn {
namespace {

namespace autograd = torch::autograd;

thread_local int segments_running = 0;

Tensors run_segment(const Segment& segment, const Tensors& inputs, const std::any& extra) {
  struct Running {
    Running() { ++segments_running; }
    ~Running() { --segments_running; }
  } const running;
  return segment(inputs, extra);
}

/// The same values with `node` as the origin of those that require a gradient. The node then gets
/// one gradient a tensor, summed over all uses.
Tensors originate_in(const std::shared_ptr<autograd::Node>& node, const Tensors& tensors) {
  Tensors originated;
  originated.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) {
    at::Tensor& alias = originated.emplace_back(tensor.defined() ? tensor.detach() : tensor);
    if (tensor.defined() && tensor.requires_grad()) {
      autograd::create_gradient_edge(alias, node);
    } else {
      node->add_input_metadata(autograd::Node::undefined_input());
    }
  }
  return originated;
}

/// Hands gradients on: what went through it was summed before.
struct Gather : autograd::Node {
  using Node::Node;
  Tensors apply(Tensors&& gradients) override { return std::move(gradients); }
};

/// Where a segment's own graph begins, so where its backward ends. (A leaf's .grad would serve,
/// but accumulation may lay a gradient out anew, and the layout decides which matrix product runs.)
struct Beginning : autograd::Node {
  Tensors apply(Tensors&& received) override {
    gradients = std::move(received);
    return {};
  }
  Tensors gradients;  // empty until then
};

struct SegmentNode : autograd::Node {
  SegmentNode(Segment f, std::any e, const Tensors& tensors)
      : Node(autograd::collect_next_edges(tensors)), segment(std::move(f)), extra(std::move(e)) {
    for (const at::Tensor& tensor : tensors) inputs.emplace_back(tensor, /*is_output=*/false);
  }

  Tensors apply(Tensors&& gradients) override {
    TRESTLE_ASSERT(!at::GradMode::is_enabled(), "a checkpointed segment has no second derivative");
    TRESTLE_ASSERT(autograd::Engine::get_default_engine().is_checkpoint_valid(),
                   "only backward() over all leaves can pass through a checkpointed segment, since "
                   "it adds to the .grad of every parameter in there");
    Tensors kept;
    for (const auto& input : inputs) kept.push_back(input.unpack());
    const auto beginning = make_node<Beginning>();
    Tensors outputs;
    {
      const at::AutoGradMode as_in_forward(true);
      outputs = run_segment(segment, originate_in(beginning, kept), extra);
    }
    TRESTLE_ASSERT(outputs.size() >= gradients.size(),
                   "a segment gave {} tensors when it was computed anew", outputs.size());
    Tensors reached, reached_gradients;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i].defined()) continue;
      reached.push_back(std::move(outputs[i]));
      reached_gradients.push_back(std::move(gradients[i]));
    }
    if (!reached.empty()) autograd::backward(reached, reached_gradients);
    beginning->gradients.resize(inputs.size());
    return std::move(beginning->gradients);
  }

  void release_variables() override {
    for (auto& input : inputs) input.reset_data();
  }

  Segment segment;
  std::any extra;
  std::vector<autograd::SavedVariable> inputs;
};

/// For a block's view of what all blocks share: one sum, then one addition.
Tensors gather_gradients(const Tensors& tensors) {
  if (!at::GradMode::is_enabled() || !autograd::any_variable_requires_grad(tensors)) return tensors;
  return originate_in(make_node<Gather>(autograd::collect_next_edges(tensors)), tensors);
}

}  // namespace

bool inside_checkpointed_segment() { return segments_running > 0; }

Tensors checkpointed_call(Segment segment, const Tensors& inputs, std::any extra) {
  if (!at::GradMode::is_enabled()) return segment(inputs, extra);
  // With gradients on, though the graph is dropped at once: operations choose their kernels by
  // whether a gradient is asked for, and the outputs say whether there is anything to train.
  Tensors outputs = run_segment(segment, originate_in(make_node<Beginning>(), inputs), extra);
  const auto node = make_node<SegmentNode>(std::move(segment), std::move(extra), inputs);
  return originate_in(node, outputs);
}

Tensors run_blocks(std::size_t count, std::int64_t checkpoint_every, const Block& block,
                   Tensors carried, const Tensors& shared, const std::any& extra) {
  TRESTLE_ASSERT(checkpoint_every >= 0, "segments of {} blocks", checkpoint_every);
  if (checkpoint_every == 0) {
    for (std::size_t i = 0; i < count; ++i) {
      carried = block(i, carried, gather_gradients(shared), extra);
    }
    return carried;
  }
  const auto length = static_cast<std::size_t>(checkpoint_every);
  for (std::size_t first = 0; first < count; first += length) {
    const std::size_t end = std::min(count, first + length);
    // A segment of several blocks gets what is shared once for each of them, the last block first:
    // a node's gradients are handed on in the order of its inputs, which is then the order of sums
    // without checkpointing.
    Tensors inputs = carried;
    for (std::size_t i = first; i < end; ++i) {
      inputs.insert(inputs.end(), shared.begin(), shared.end());
    }
    const auto segment = [=, own = carried.size(), each = shared.size()](
                             const Tensors& in, const std::any& same_extra) {
      Tensors flow(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(own));
      for (std::size_t i = first; i < end; ++i) {
        const auto from = in.begin() + static_cast<std::ptrdiff_t>(own + (end - 1 - i) * each);
        flow = block(i, flow, Tensors(from, from + static_cast<std::ptrdiff_t>(each)), same_extra);
      }
      return flow;
    };
    carried = checkpointed_call(segment, inputs, extra);
  }
  return carried;
}

}  // namespace trestle::models::nn
