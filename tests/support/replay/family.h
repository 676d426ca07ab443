// A model family as the replay program sees it: made from the reference's config.json, and run on
// inputs by the reference's names. One .cpp a family beside this file, named like its folder in
// models/ and built only where that folder is; it registers itself:
//
//   const Registration registration({"sana", make_model<SanaReplay>});
//
// (The files are linked into the program itself, so nothing drops such a registration.)
#pragma once
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>
#include <nlohmann/json_fwd.hpp>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::replay {

using Inputs = std::map<std::string, at::Tensor>;

class Model {
 public:
  explicit Model(const at::TensorOptions& options) : parameters_(options, Draws(0)) {}
  virtual ~Model() = default;

  models::nn::Parameters& parameters() { return parameters_; }

  /// The output; `call` is the case's own, for what is neither weight nor input.
  virtual at::Tensor forward(const Inputs& inputs, const nlohmann::json& call) const = 0;

 private:
  models::nn::Parameters parameters_;
};

struct Family {
  std::string_view name;
  /// `source` names the file that the configuration came from.
  std::unique_ptr<Model> (*make)(const std::string& config_json, const std::string& source,
                                 const at::TensorOptions& options);
};

template <class M>
std::unique_ptr<Model> make_model(const std::string& config_json, const std::string& source,
                                  const at::TensorOptions& options) {
  return std::make_unique<M>(config_json, source, options);
}

/// All that registered, by name.
const std::vector<Family>& families();

struct Registration {
  explicit Registration(const Family& family);
};

}  // namespace trestle::replay
