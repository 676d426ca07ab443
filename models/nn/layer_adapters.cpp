#include "models/nn/layer_adapters.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle::models::nn {
namespace {

/// b·a · scale as a matrix [out, in·kernel].
at::Tensor low_rank_product(const LayerAdapter& adapter, double scale) {
  return at::matmul(adapter.b.flatten(1), adapter.a.flatten(1)) * scale;
}

/// DoRA's factor of each output channel: the magnitude learnt, over the norm that W + b·a has. The
/// norm is a constant to backward (section 4.3 of the paper).
at::Tensor dora_factor(const LayerAdapter& adapter, const at::Tensor& weight_matrix, double scale) {
  at::Tensor norm;
  {
    const at::NoGradGuard constant;
    norm = (weight_matrix + low_rank_product(adapter, scale)).norm(2, 1);
  }
  return adapter.magnitude.flatten() / norm;
}

/// What `so_far` [.., out] becomes by one adapter.
at::Tensor with_adapter(const LayerAdapters& layer, const LayerAdapter& adapter, double scale,
                        const at::Tensor& x, const at::Tensor& so_far, const at::Tensor& bias,
                        const DropoutDraws* dropout) {
  const at::Tensor seen = drop(x.to(adapter.a.scalar_type()), adapter.dropout,
                               adapter.dropout_purpose, dropout);             // [.., in]
  const at::Tensor narrow = at::linear(seen, adapter.a.flatten(1));           // [.., r]
  const at::Tensor added = at::linear(narrow, adapter.b.flatten(1)) * scale;  // [.., out]
  if (!adapter.magnitude.defined()) return so_far + added;

  const at::Tensor weight = layer.weight.detach().to(seen.scalar_type()).flatten(1);
  const at::Tensor factor = dora_factor(adapter, weight, scale);
  at::Tensor unscaled;  // what the factor applies to besides the adapter's own part
  if (dropout != nullptr && adapter.dropout > 0) {
    unscaled = at::linear(seen, weight);
  } else {
    unscaled = bias.defined() ? so_far - bias : so_far;
  }
  return so_far + (factor - 1) * unscaled + factor * added;
}

}  // namespace

const LayerAdapter* LayerAdapters::find(std::string_view name) const {
  const auto found = std::ranges::find(adapters, name, &LayerAdapter::name);
  return found == adapters.end() ? nullptr : &*found;
}

bool has_active(const LayerAdapters& layer, const CallContext& call) {
  if (layer.adapters.empty()) return false;
  return std::ranges::any_of(call.adapters.active, [&](const ActiveAdapter& active) {
    return layer.find(active.name) != nullptr;
  });
}

at::Tensor adapted(const LayerAdapters& layer, const at::Tensor& x, const at::Tensor& base,
                   const at::Tensor& bias, const CallContext& call) {
  if (!has_active(layer, call)) return base;
  at::Tensor y = base;
  for (const ActiveAdapter& active : call.adapters.active) {
    const LayerAdapter* adapter = layer.find(active.name);
    if (adapter == nullptr) continue;
    TRESTLE_ASSERT(std::ranges::count(layer.merged, active.name) == 0,
                   "adapter \"{}\" is active and merged into {} at once", active.name, layer.layer);
    y = with_adapter(layer, *adapter, active.weight * adapter->scale, x, y, bias,
                     call.dropout_draws());
  }
  return y.to(base.scalar_type());
}

at::Tensor merged_weight(const LayerAdapters& layer, const AdapterSet& set) {
  const at::NoGradGuard no_grad;
  const auto wide = at::promote_types(layer.weight.scalar_type(), at::kFloat);
  const at::Tensor own = layer.weight.to(wide).flatten(1);
  at::Tensor merged = own;
  for (const ActiveAdapter& active : set.active) {
    const LayerAdapter* found = layer.find(active.name);
    if (found == nullptr) continue;
    LayerAdapter adapter = *found;
    adapter.a = adapter.a.to(wide);
    adapter.b = adapter.b.to(wide);
    if (adapter.magnitude.defined()) adapter.magnitude = adapter.magnitude.to(wide);
    const double scale = active.weight * adapter.scale;
    merged = merged + low_rank_product(adapter, scale);
    if (adapter.magnitude.defined()) {
      merged = merged * dora_factor(adapter, own, scale).unsqueeze(1);
    }
  }
  return merged.view(layer.weight.sizes());
}

}  // namespace trestle::models::nn
