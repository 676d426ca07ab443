// How far the pictures are from their targets on the held-out set, beside two things a model must
// beat: the untouched source, and the best affine colour map fitted on training pictures.
// Errors are means of squared differences over all pixels and colours in [-1, 1].
#pragma once
#include "trainers/job.h"

#include <ATen/core/TensorBody.h>

#include <array>
#include <memory>

namespace trestle::trainers::sana_bridge {

class SanaBridge;

/// target ≈ weight · (r, g, b, 1): the normal equations first, then the map.
struct AffineMap {
  at::Tensor gram = {};       ///< [4, 4] fp64, sum of inputs times inputs
  at::Tensor moment = {};     ///< [4, 3] fp64, sum of inputs times targets
  at::Tensor weight_43 = {};  ///< [4, 3] fp64
};

/// Least squares over training pictures (evenly spread, at most kMaxPictures of them).
class FitAffineMap : public Job {
 public:
  static constexpr std::int64_t kMaxPictures = 4096;

  FitAffineMap(SanaBridge& task, std::shared_ptr<AffineMap> map);
  std::string_view name() const override { return "fit affine map"; }
  std::int64_t size() const override { return pictures_; }
  void run(IndexRange range, JobContext& context) override;
  void finish(JobContext& context) override;

 private:
  SanaBridge& task_;
  std::shared_ptr<AffineMap> map_;
  std::int64_t pictures_;
};

/// Results: heldout_error_model, heldout_error_source, heldout_error_affine, heldout_samples.
class HeldoutError : public Job {
 public:
  HeldoutError(SanaBridge& task, std::shared_ptr<const AffineMap> map);
  std::string_view name() const override { return "held-out error"; }
  std::int64_t size() const override;
  void run(IndexRange range, JobContext& context) override;
  void finish(JobContext& context) override;

 private:
  SanaBridge& task_;
  std::shared_ptr<const AffineMap> map_;
  std::array<double, 4> sums_{};  // model, source, affine, samples
};

}  // namespace trestle::trainers::sana_bridge
