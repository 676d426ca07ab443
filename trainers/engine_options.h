// What decides how an Engine works: how gradients are reduced, and what each parameter group lives
// by. LOCAL, a plain value.
#pragma once
#include "configs/recipe.h"
#include "dist/gradient_reducer.h"
#include "trainers/group_options.h"
#include "trainers/optim/ema.h"
#include "trainers/optim/shard_optimizer.h"
#include "trainers/task.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace trestle::trainers {

struct EngineOptions {
  dist::ReducerOptions reducer;
  std::int64_t bucket_bytes = 0;  ///< 0: see BucketOptions
  double max_grad_norm = 0;       ///< of each objective; 0: no clipping
  std::vector<NamedAverage> averages;
  GroupOptions every_group;                    ///< of groups that are not named here
  std::map<std::string, GroupOptions> groups;  ///< by name
  /// Of a group; the fused AdamW.
  std::function<std::unique_ptr<const Optimizer>(const GroupOptions&)> make_optimizer = fused_adamw;

  static EngineOptions of(const configs::Recipe& recipe, Task& task);
  static std::unique_ptr<const Optimizer> fused_adamw(const GroupOptions& options);
  const GroupOptions& of_group(const std::string& name) const;
  /// None of a group that keeps none.
  std::vector<NamedAverage> averages_of(const ParameterGroup& group) const;
};

}  // namespace trestle::trainers
