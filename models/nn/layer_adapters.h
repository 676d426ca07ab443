// What a layer knows of adapters: those that were added to it, by name (lora.h adds them), and how
// the ones that a call asks for change its result (Hu et al., "LoRA", 2021; Liu et al., "DoRA",
// 2024, with the norm taken as a constant; both as peft 0.21 computes them).
//
//   return adapted(*adapters, x, at::linear(x, weight, bias), bias, call);
//
// Which adapters are active is an argument of the call and no state of the layer, so a segment that
// backward computes anew does what it did.
// LOCAL. THREADS: calls may run at once; adding and merging may not run beside them.
#pragma once
#include "models/nn/dropout.h"

#include <ATen/core/TensorBody.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::nn {

/// An adapter that takes part in a call, `weight` times.
struct ActiveAdapter {
  std::string name;
  double weight = 1;
};

/// Adapters act in this order. lora.h's activate() makes one and checks the names.
struct AdapterSet {
  std::vector<ActiveAdapter> active;
};

/// What a call of a model brings besides tensors; by default nothing.
struct CallContext {
  std::optional<DropoutDraws> dropout = {};  ///< none: evaluation
  AdapterSet adapters = {};

  const DropoutDraws* dropout_draws() const { return dropout ? &*dropout : nullptr; }
};

/// One layer's part of an adapter. For a convolution `a` has its kernel and `b` is 1x1, as in peft.
struct LayerAdapter {
  std::string name;
  at::Tensor a;          // [r, in, kernel...]
  at::Tensor b;          // [out, r, 1...]
  at::Tensor magnitude;  // DoRA: [out], for a convolution [1, out, 1...]; else undefined
  double scale = 1;      // alpha / r, for rslora alpha / sqrt(r)
  double dropout = 0;
  Purpose dropout_purpose;
};

/// All adapters of one layer; the layer, its copies and the model's list of layers share it.
struct LayerAdapters {
  std::string layer;                   ///< "transformer_blocks.0.attn1.to_q"
  at::Tensor weight;                   ///< [out, in, kernel...]
  std::string refusal;                 ///< why this layer can have none; empty: it can
  std::vector<LayerAdapter> adapters;  ///< in the order they were added
  at::Tensor unmerged;                 ///< the weight's own bits while adapters are merged into it
  std::vector<std::string> merged;     ///< which those are

  const LayerAdapter* find(std::string_view name) const;
};

using AdapterSlot = std::shared_ptr<LayerAdapters>;

/// Whether an adapter of this layer takes part in the call.
bool has_active(const LayerAdapters& layer, const CallContext& call);

/// `base` with what the active adapters add, in base's dtype; `base` itself where there are none.
/// x [.., in] is what the layer read (for a convolution the inputs of each window, in the order of
/// its flattened weight), `base` [.., out] what it made of that, `bias` the part of base that is
/// its bias (undefined where there is none).
at::Tensor adapted(const LayerAdapters& layer, const at::Tensor& x, const at::Tensor& base,
                   const at::Tensor& bias, const CallContext& call);

/// The layer's weight [out, in, kernel...] with the adapters in it, in the adapters' arithmetic
/// (fp32 or wider), so that the layer without adapters gives what it now gives with them.
at::Tensor merged_weight(const LayerAdapters& layer, const AdapterSet& set);

}  // namespace trestle::models::nn
