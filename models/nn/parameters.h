// The ordered list of a model's parameters, and the scopes through which layers add theirs.
//
// Names are those of the reference library's state_dict(), in its order, so weights need no map.
// A layer keeps the tensors it adds; the list shares them (an at::Tensor is a handle).
//
//   nn::Parameters parameters(options, nn::Initialise{Draws(seed)});
//   nn::Linear proj(parameters.root() / "proj_out", 128, 48, nn::Bias::yes);
//
// LOCAL. THREADS: one at a time while building; read-only afterwards.
#pragma once
#include "base/torch/draws.h"
#include "models/nn/layer_adapters.h"

#include <ATen/core/TensorBody.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::models::nn {

/// A leaf that training may change, under the name it is exported with.
struct NamedParameter {
  std::string name;
  at::Tensor tensor;
};

/// How a fresh parameter is filled; PyTorch's default for its layer, so that curves compare.
struct Init {
  enum class Kind { zeros, ones, uniform, normal } kind = Kind::zeros;
  double scale = 0;  ///< uniform: the bound; normal: the standard deviation

  static Init zeros() { return {Kind::zeros}; }
  static Init ones() { return {Kind::ones}; }
  static Init uniform(double bound) { return {Kind::uniform, bound}; }
  static Init normal(double deviation) { return {Kind::normal, deviation}; }
};

/// A leaf that training may change, filled with what is drawn for the purpose.
at::Tensor fresh_leaf(Purpose purpose, at::IntArrayRef shape, Init init,
                      const at::TensorOptions& options, const Draws& draws);

class Scope;

class Parameters {
 public:
  /// `options` gives dtype and device of every parameter. On the meta device only names and shapes
  /// exist. Values are drawn by parameter name, so they do not depend on the order of construction.
  Parameters(const at::TensorOptions& options, const Draws& init);
  /// Parameters that hold what happens to be in their memory, until a file's weights are loaded
  /// into them (weights/load.h): drawing values takes longer than reading them.
  static Parameters unfilled(const at::TensorOptions& options);

  Scope root();
  const std::vector<NamedParameter>& all() const { return all_; }
  const at::TensorOptions& options() const { return options_; }
  std::int64_t numel() const;

  /// Undefined tensor where there is no such name.
  at::Tensor find(std::string_view name) const;

  at::Tensor add(std::string name, at::IntArrayRef shape, Init init);

  /// The layers with a weight matrix, in order, for adapters (lora.h).
  const std::vector<AdapterSlot>& layers() const { return layers_; }
  AdapterSlot add_layer(std::string name, const at::Tensor& weight, std::string refusal);

 private:
  Parameters(const at::TensorOptions& options, std::optional<Draws> init);

  at::TensorOptions options_;
  std::optional<Draws> init_;  ///< none: nothing is drawn
  std::vector<NamedParameter> all_;
  std::vector<AdapterSlot> layers_;
};

/// A name prefix within a Parameters list.
class Scope {
 public:
  Scope(Parameters& parameters, std::string prefix)
      : parameters_(&parameters), prefix_(std::move(prefix)) {}
  Scope operator/(std::string_view child) const;
  Scope operator/(std::int64_t index) const;
  at::Tensor parameter(std::string_view name, at::IntArrayRef shape, Init init) const;
  /// Tells the model's list of this scope's layer, whose weight has the shape [out, in, kernel...].
  /// `refusal`: why it can have no adapters, where it cannot.
  AdapterSlot layer(const at::Tensor& weight, std::string refusal = "") const;
  std::string name(std::string_view leaf) const;
  const at::TensorOptions& options() const { return parameters_->options(); }

 private:
  Parameters* parameters_;
  std::string prefix_;
};

}  // namespace trestle::models::nn
