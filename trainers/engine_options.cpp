#include "trainers/engine_options.h"

#include "trainers/optim/fused_adamw.h"
#include "trainers/options.h"

#include <algorithm>
#include <iterator>
#include <string_view>

namespace trestle::trainers {
namespace {

constexpr std::string_view kShardNames[] = {"none", "optimizer", "gradients"};

}  // namespace

EngineOptions EngineOptions::of(const configs::Recipe& recipe, Task& task) {
  const auto dist = recipe.section<DistOptions>("dist");
  const auto shard = std::ranges::find(kShardNames, dist.shard) - std::begin(kShardNames);
  EngineOptions options{
      .reducer = {.shard = static_cast<dist::ShardMode>(shard),
                  .wire = dist.wire_dtype == "bf16" ? dist::WireDtype::bf16 : dist::WireDtype::sum},
      .bucket_bytes = dist.bucket_bytes,
      .max_grad_norm = recipe.section<TrainOptions>("train").max_grad_norm,
      .averages = trainers::averages_of(recipe),
      .every_group = {},
      .groups = {}};
  for (const ParameterGroup& group : task.groups())
    options.groups[group.name] = GroupOptions::of(recipe, group.name);
  return options;
}

std::unique_ptr<const Optimizer> EngineOptions::fused_adamw(const GroupOptions& options) {
  return std::make_unique<FusedAdamW>(options.adamw);
}

const GroupOptions& EngineOptions::of_group(const std::string& name) const {
  const auto found = groups.find(name);
  return found == groups.end() ? every_group : found->second;
}

std::vector<NamedAverage> EngineOptions::averages_of(const ParameterGroup& group) const {
  return group.ema ? averages : std::vector<NamedAverage>();
}

}  // namespace trestle::trainers
