// Cases of diffusers' SanaTransformer2DModel.
#include "models/sana/transformer.h"
#include "tests/support/replay/family.h"

#include <nlohmann/json.hpp>

namespace trestle::replay {
namespace {

models::sana::SanaConfig read_config(const std::string& text, const std::string& source) {
  const auto config = models::sana::config_from_json(text, source);
  models::require_supported(config, source);
  return config;
}

class SanaReplay : public Model {
 public:
  SanaReplay(const std::string& config_json, const std::string& source,
             const at::TensorOptions& options)
      : Model(options), model_(read_config(config_json, source), parameters().root()) {}

  at::Tensor forward(const Inputs& inputs, const nlohmann::json&) const override {
    const auto mask = inputs.find("encoder_attention_mask");
    return model_({.latents_bchw = inputs.at("hidden_states"),
                   .text_blc = inputs.at("encoder_hidden_states"),
                   .timestep_b = inputs.at("timestep"),
                   .text_mask_bl = mask == inputs.end() ? at::Tensor() : mask->second});
  }

 private:
  models::sana::SanaTransformer model_;
};

const Registration registration({"sana", make_model<SanaReplay>});

}  // namespace
}  // namespace trestle::replay
