#include "trainers/sana_bridge/heldout_error.h"

#include "base/log.h"
#include "trainers/sana_bridge/sana_bridge.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace trestle::trainers::sana_bridge {
namespace {

constexpr std::int64_t kPicturesAtOnce = 16;

/// [B, 3, H, W] -> [B H W, 3] in fp64.
at::Tensor pixels(const at::Tensor& pictures_bchw) {
  return pictures_bchw.permute({0, 2, 3, 1}).reshape({-1, 3}).to(at::kDouble);
}

/// [B, 3, H, W] -> [B H W, 4]: colour and 1.
at::Tensor affine_inputs(const at::Tensor& pictures_bchw) {
  const at::Tensor colours = pixels(pictures_bchw);
  return at::cat({colours, at::ones({colours.size(0), 1}, colours.options())}, 1);
}

/// Sum over the batch of each picture's mean squared difference.
double error_sum(const at::Tensor& a_bchw, const at::Tensor& b_bchw) {
  return (a_bchw.to(at::kDouble) - b_bchw.to(at::kDouble))
      .square()
      .flatten(1)
      .mean(1)
      .sum()
      .item<double>();
}

std::vector<data::SampleId> ids_of(IndexRange range, std::int64_t items, std::int64_t available) {
  std::vector<data::SampleId> ids;
  for (std::int64_t i = range.begin; i < range.end; ++i) ids.push_back(i * available / items);
  return ids;
}

}  // namespace

FitAffineMap::FitAffineMap(SanaBridge& task, std::shared_ptr<AffineMap> map)
    : task_(task),
      map_(std::move(map)),
      pictures_(std::min(kMaxPictures, task.dataset(Split::train).size())) {}

void FitAffineMap::run(IndexRange range, JobContext& context) {
  const data::Dataset& dataset = task_.dataset(Split::train);
  map_->gram = at::zeros({4, 4}, at::kDouble);
  map_->moment = at::zeros({4, 3}, at::kDouble);
  for (std::int64_t begin = range.begin; begin < range.end; begin += kPicturesAtOnce) {
    context.stop.check();
    const IndexRange part{begin, std::min(range.end, begin + kPicturesAtOnce)};
    // A bad picture among hundreds does not move the fit; held-out ones are another matter.
    const data::Batch batch = data::load_good(dataset, ids_of(part, pictures_, dataset.size()));
    if (batch.size() < part.size())
      log_warn("the affine map is fitted without {} training pictures that cannot be used",
               part.size() - batch.size());
    context.advance(part.size());
    if (batch.size() == 0) continue;
    const at::Tensor in = affine_inputs(batch.tensor("source"));
    map_->gram += in.t().mm(in);
    map_->moment += in.t().mm(pixels(batch.tensor("target")));
  }
}

void FitAffineMap::finish(JobContext& context) {
  for (at::Tensor* sum : {&map_->gram, &map_->moment}) {
    context.world.all_reduce(
        std::span(sum->mutable_data_ptr<double>(), static_cast<std::size_t>(sum->numel())),
        dist::ReduceOp::sum);
  }
  // Pictures without colour make the columns equal; the pseudo-inverse then still has an answer.
  map_->weight_43 = at::linalg_pinv(map_->gram, 1e-12, /*hermitian=*/true).mm(map_->moment);
}

HeldoutError::HeldoutError(SanaBridge& task, std::shared_ptr<const AffineMap> map)
    : task_(task), map_(std::move(map)) {}

std::int64_t HeldoutError::size() const { return task_.dataset(Split::heldout).size(); }

void HeldoutError::run(IndexRange range, JobContext& context) {
  const data::Dataset& dataset = task_.dataset(Split::heldout);
  const std::int64_t at_once = task_.options().micro_batch;
  for (std::int64_t begin = range.begin; begin < range.end; begin += at_once) {
    const IndexRange part{begin, std::min(range.end, begin + at_once)};
    const data::Batch batch = dataset.load(ids_of(part, dataset.size(), dataset.size()));
    const at::Tensor &source = batch.tensor("source"), &target = batch.tensor("target");
    const at::Tensor mapped = affine_inputs(source)
                                  .mm(map_->weight_43)
                                  .view({source.size(0), source.size(2), source.size(3), 3})
                                  .permute({0, 3, 1, 2});
    sums_[0] += error_sum(task_.generate(batch, context.draws, context.stop), target);
    sums_[1] += error_sum(source, target);
    sums_[2] += error_sum(mapped, target);
    sums_[3] += double(part.size());
    context.advance(part.size());
  }
}

void HeldoutError::finish(JobContext& context) {
  context.world.all_reduce(sums_, dist::ReduceOp::sum);
  context.results["heldout_error_model"] = sums_[0] / sums_[3];
  context.results["heldout_error_source"] = sums_[1] / sums_[3];
  context.results["heldout_error_affine"] = sums_[2] / sums_[3];
  context.results["heldout_samples"] = sums_[3];
}

}  // namespace trestle::trainers::sana_bridge
