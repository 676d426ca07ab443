#include "models/nn/parameters.h"

#include "base/error.h"

#include <ATen/ATen.h>

namespace trestle::models::nn {
namespace {

at::Tensor initial_value(Purpose purpose, at::IntArrayRef shape, Init init,
                         const at::TensorOptions& options, const Draws& draws) {
  switch (init.kind) {
    case Init::Kind::zeros:
      return at::zeros(shape, options);
    case Init::Kind::ones:
      return at::ones(shape, options);
    case Init::Kind::uniform:
      return draws.uniform(purpose, shape, options).mul_(2).sub_(1).mul_(init.scale);
    case Init::Kind::normal:
      return draws.normal(purpose, shape, options).mul_(init.scale);
  }
  TRESTLE_ASSERT(false, "unknown init");
  return {};
}

}  // namespace

at::Tensor fresh_leaf(Purpose purpose, at::IntArrayRef shape, Init init,
                      const at::TensorOptions& options, const Draws& draws) {
  // Detached, since draws are views: a view's base would keep this memory when the parameter has
  // moved into a flat buffer.
  at::Tensor tensor = initial_value(purpose, shape, init, options, draws).detach();
  tensor.set_requires_grad(true);
  return tensor;
}

Parameters::Parameters(const at::TensorOptions& options, const Draws& init)
    : Parameters(options, std::optional(init)) {}

Parameters::Parameters(const at::TensorOptions& options, std::optional<Draws> init)
    : options_(options), init_(init) {}

Parameters Parameters::unfilled(const at::TensorOptions& options) {
  return {options, std::optional<Draws>()};
}

Scope Parameters::root() { return {*this, ""}; }

std::int64_t Parameters::numel() const {
  std::int64_t total = 0;
  for (const auto& parameter : all_) total += parameter.tensor.numel();
  return total;
}

at::Tensor Parameters::find(std::string_view name) const {
  for (const auto& parameter : all_) {
    if (parameter.name == name) return parameter.tensor;
  }
  return {};
}

at::Tensor Parameters::add(std::string name, at::IntArrayRef shape, Init init) {
  TRESTLE_ASSERT(!find(name).defined(), "parameter \"{}\" added twice", name);
  at::Tensor tensor = init_ ? fresh_leaf(Purpose(name), shape, init, options_, *init_)
                            : at::empty(shape, options_).set_requires_grad(true);
  all_.push_back({std::move(name), tensor});
  return tensor;
}

AdapterSlot Parameters::add_layer(std::string name, const at::Tensor& weight, std::string refusal) {
  layers_.push_back(std::make_shared<LayerAdapters>());
  LayerAdapters& layer = *layers_.back();
  layer.layer = std::move(name);
  layer.weight = weight;
  layer.refusal = std::move(refusal);
  return layers_.back();
}

Scope Scope::operator/(std::string_view child) const { return {*parameters_, name(child)}; }
Scope Scope::operator/(std::int64_t index) const { return *this / std::to_string(index); }

std::string Scope::name(std::string_view leaf) const {
  return prefix_.empty() ? std::string(leaf) : prefix_ + "." + std::string(leaf);
}

AdapterSlot Scope::layer(const at::Tensor& weight, std::string refusal) const {
  return parameters_->add_layer(prefix_, weight, std::move(refusal));
}

at::Tensor Scope::parameter(std::string_view leaf, at::IntArrayRef shape, Init init) const {
  return parameters_->add(name(leaf), shape, init);
}

}  // namespace trestle::models::nn
