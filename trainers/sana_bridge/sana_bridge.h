// Picture to picture with a Sana transformer and a Brownian bridge (ViBT, arXiv:2511.23199): the
// network learns the velocity from source to target latents, conditioned on a prompt. What is
// trained is the network, or with lora.enabled adapters of it.
#pragma once
#include "models/pixels/codec.h"
#include "models/sana/transformer.h"
#include "trainers/sana_bridge/options.h"
#include "trainers/task.h"

#include <memory>

namespace trestle::trainers::sana_bridge {

class SanaBridge : public Task {
 public:
  SanaBridge(const Options& options, Materialise materialise);

  std::vector<ParameterGroup> groups() override;
  std::vector<FrozenPart> frozen() override;
  const data::Dataset& dataset(Split split) override;
  LossReport loss(const Objective& objective, const data::Batch& batch,
                  const StepContext& context) override;
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws& draws) override;
  std::vector<std::unique_ptr<Job>> jobs() override;

  /// Samples of the bridge from a batch's sources: pictures [B, 3, H, W] in about [-1, 1]. Noise is
  /// keyed by the batch's ids, so it does not depend on how ids were grouped. A stop is noticed
  /// before each evaluation of the network.
  at::Tensor generate(const data::Batch& batch, const Draws& draws, StopToken stop);

  const Options& options() const { return options_; }

 private:
  at::Tensor velocity(const at::Tensor& x, const at::Tensor& time_b, const data::Batch& batch,
                      const models::sana::DropoutDraws* dropout) const;

  Options options_;
  models::nn::Parameters parameters_;
  models::sana::SanaTransformer model_;
  std::vector<NamedParameter> adapter_;  // empty: the model itself is trained
  models::nn::AdapterSet adapters_;
  models::pixels::PixelCodec codec_;
  std::unique_ptr<data::PairedPictures> train_, heldout_;
};

}  // namespace trestle::trainers::sana_bridge
