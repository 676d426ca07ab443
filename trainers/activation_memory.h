// What forward and backward hold besides the trained state: found by walking through the task's own
// loss and its gradients on the meta device, where every tensor has its size and none has memory,
// and counting what is alive. So it is known before there are weights, and for models that fit on
// no machine at hand.
//
//   const auto task = task_kind_of(recipe).make(recipe, Materialise::meta);
//   const ActivationMemory found = trace_activations(*task, /*samples=*/8);
//   if (!found.unknown.empty()) ...        // the data set cannot be opened, or a shape depends on
//                                          // values: then nobody knows
//
// Counted as the CPU does it: fused layers allocate what they do there (models/nn/fused.h), and
// attention runs torch's fused kernel. Operations that have no kernel for the meta device run on
// the CPU, on zeros, for the shapes of their results: then the largest of them has to fit here, and
// takes its time. Scratch memory inside kernels is not counted.
// LOCAL. THREADS: one; nothing else in the process may use the meta device meanwhile.
#pragma once
#include "trainers/task.h"

#include <cstdint>
#include <string>

namespace trestle::trainers {

struct ActivationMemory {
  std::int64_t dataset_bytes = 0;  ///< tensors that the open data set holds
  std::int64_t batch_bytes = 0;    ///< of one micro batch as the data set gives it
  std::int64_t peak_bytes = 0;     ///< most at once in any objective's forward and backward, the
                                   ///< micro batch and a gradient on its way to its bucket included
  std::string unknown = {};        ///< why these are not known; empty: they are
};

/// `task` is on the meta device. Reads up to `samples` samples of its training data, for their
/// shapes.
ActivationMemory trace_activations(Task& task, std::int64_t samples);

}  // namespace trestle::trainers
