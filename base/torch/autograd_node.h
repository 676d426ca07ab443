// Nodes of autograd's graph that are our own. LOCAL.
#pragma once
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <utility>

namespace trestle {

/// Autograd's own way to make a node: its deleter does not recurse through long graphs.
template <class NodeType, class... Args>
std::shared_ptr<NodeType> make_node(Args&&... args) {
  return {new NodeType(std::forward<Args>(args)...), torch::autograd::deleteNode};
}

}  // namespace trestle
