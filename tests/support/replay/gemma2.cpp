// Cases of transformers' Gemma2Model.
#include "models/gemma2/model.h"
#include "tests/support/replay/family.h"

#include <nlohmann/json.hpp>

namespace trestle::replay {
namespace {

namespace gemma2 = models::gemma2;

gemma2::Gemma2Config read_config(const std::string& text, const std::string& source) {
  const auto config = gemma2::config_from_json(text, source);
  models::require_supported(config, source);
  return config;
}

class Gemma2Replay : public Model {
 public:
  Gemma2Replay(const std::string& config_json, const std::string& source,
               const at::TensorOptions& options)
      : Model(options), model_(read_config(config_json, source), parameters().root()) {}

  at::Tensor forward(const Inputs& inputs, const nlohmann::json&) const override {
    const auto mask = inputs.find("attention_mask");
    return model_(inputs.at("input_ids"), mask == inputs.end() ? at::Tensor() : mask->second);
  }

 private:
  gemma2::Gemma2Model model_;
};

const Registration registration({"gemma2", make_model<Gemma2Replay>});

}  // namespace
}  // namespace trestle::replay
