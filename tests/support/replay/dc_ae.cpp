// Cases of diffusers' AutoencoderDC. call: {"method": "encode" | "decode", "tiling":
// {"tile_height", "tile_width", "stride_height", "stride_width"}, absent: none}; the input is `x`
// or `z`, as the reference names them.
#include "base/error.h"
#include "models/dc_ae/autoencoder.h"
#include "tests/support/replay/family.h"

#include <nlohmann/json.hpp>

namespace trestle::replay {
namespace {

namespace dc_ae = models::dc_ae;

dc_ae::DcAeConfig read_config(const std::string& text, const std::string& source) {
  const auto config = dc_ae::config_from_json(text, source);
  models::require_supported(config, source);
  return config;
}

class DcAeReplay : public Model {
 public:
  DcAeReplay(const std::string& config_json, const std::string& source,
             const at::TensorOptions& options)
      : Model(options), model_(read_config(config_json, source), parameters().root()) {}

  at::Tensor forward(const Inputs& inputs, const nlohmann::json& call) const override {
    const auto method = call.at("method").get<std::string>();
    TRESTLE_REQUIRE(method == "encode" || method == "decode",
                    "call.method \"{}\" is not known (encode and decode are). Correct it.", method);
    const bool encodes = method == "encode";
    const at::Tensor& input = inputs.at(encodes ? "x" : "z");
    if (!call.contains("tiling")) return encodes ? model_.encode(input) : model_.decode(input);
    const auto& said = call.at("tiling");
    const dc_ae::Tiling tiling = {.tile_height = said.at("tile_height"),
                                  .tile_width = said.at("tile_width"),
                                  .stride_height = said.at("stride_height"),
                                  .stride_width = said.at("stride_width")};
    return encodes ? model_.encode(input, tiling) : model_.decode(input, tiling);
  }

 private:
  dc_ae::AutoencoderDc model_;
};

const Registration registration({"dc_ae", make_model<DcAeReplay>});

}  // namespace
}  // namespace trestle::replay
