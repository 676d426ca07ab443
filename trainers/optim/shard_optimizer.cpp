#include "trainers/optim/shard_optimizer.h"

#include "base/error.h"

#include <ATen/ATen.h>

namespace trestle::trainers {

std::size_t Optimizer::sums_of(int round) const {
  TRESTLE_ASSERT(false, "an optimizer of {} rounds was asked for round {}", rounds(), round);
  return 0;
}

void Optimizer::contribute(int round, std::span<const Shard>, const StepScalars&,
                           std::span<double>) const {
  TRESTLE_ASSERT(false, "an optimizer of {} rounds was asked for round {}", rounds(), round);
}

std::vector<double> global_sums(const Optimizer& optimizer, std::span<const Shard> shards,
                                StepScalars scalars,
                                const std::function<void(std::span<double>)>& all_reduce) {
  std::vector<double> sums;
  for (int round = 0; round < optimizer.rounds(); ++round) {
    std::vector<double> own(optimizer.sums_of(round), 0.0);
    scalars.sums = sums;
    optimizer.contribute(round, shards, scalars, own);
    all_reduce(own);
    sums.insert(sums.end(), own.begin(), own.end());
  }
  return sums;
}

void check_shard(const Shard& shard, std::size_t state_planes) {
  const at::Tensor& master = shard.master;
  const auto check = [&](const char* what, const at::Tensor& plane) {
    TRESTLE_ASSERT(plane.defined(), "{} of a shard is missing", what);
    TRESTLE_ASSERT(plane.dim() == 1 && plane.is_contiguous() && plane.numel() == master.numel() &&
                       plane.device() == master.device(),
                   "{} of a shard: {} axes, {} elements on {}; the master has {} on {}", what,
                   plane.dim(), plane.numel(), plane.device().str(), master.numel(),
                   master.device().str());
  };
  const auto check_plane = [&](const char* what, const at::Tensor& plane) {
    check(what, plane);
    TRESTLE_ASSERT(plane.scalar_type() == master.scalar_type(),
                   "{} of a shard is {}, its master {}", what, at::toString(plane.scalar_type()),
                   at::toString(master.scalar_type()));
  };
  check("master", master);
  TRESTLE_ASSERT(master.scalar_type() == at::kFloat || master.scalar_type() == at::kDouble,
                 "masters are fp32 or fp64, not {}", at::toString(master.scalar_type()));
  check_plane("gradient", shard.gradient);
  TRESTLE_ASSERT(shard.state.size() == state_planes, "a shard has {} state planes, not {}",
                 shard.state.size(), state_planes);
  for (const at::Tensor& plane : shard.state) check_plane("state", plane);
  for (const AveragePlane& average : shard.averages) check_plane("average", average.values);
  if (!shard.parameter.defined()) return;
  if (shard.parameter.scalar_type() == at::kBFloat16 && master.scalar_type() == at::kFloat)
    check("parameter", shard.parameter);
  else
    check_plane("parameter", shard.parameter);
}

}  // namespace trestle::trainers
