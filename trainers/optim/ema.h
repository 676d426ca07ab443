// Exponential moving average of the parameters. By default with diffusers' ramp: after n updates
// the decay is min(decay, (1 + n) / (10 + n)), so early averages are not ruled by the initial
// weights. LOCAL. THREADS: one.
#pragma once
#include "checkpoint/state_tree.h"
#include "configs/describe.h"
#include "configs/recipe.h"
#include "configs/schema.h"
#include "models/nn/parameters.h"

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::trainers {

/// How an average follows the weights: [ema], and [ema.<name>] over it for those of ema.more.
struct EmaOptions {
  std::string schedule = "ramp";
  double decay = 0.9999;
  double min_decay = 0;
  double inv_gamma = 1;
  double power = 2.0 / 3;

  /// Of the update that comes after `updates` others.
  double decay_after(std::int64_t updates) const;
  void describe(configs::Fields& fields);
};

struct AverageOptions {  // [ema]
  bool enabled = true;
  std::vector<std::string> more;

  void describe(configs::Fields& fields);
};

/// One that is kept. Its name is its section of the recipe: "ema", or "ema.slow".
struct NamedAverage {
  std::string name = "ema";
  EmaOptions options = {};
};

/// Those of a recipe, "ema" first.
std::vector<NamedAverage> averages_of(const configs::Recipe& recipe);
/// Adds [ema].
void describe_averages(configs::Schema& schema);
/// And [ema.<name>] for each name of the recipe's ema.more; throws Error(usage) for one that cannot
/// be.
void describe_averages(configs::Schema& schema, const configs::Recipe& recipe);

class Ema {
 public:
  /// Starts as a copy of the parameters.
  Ema(std::vector<models::nn::NamedParameter> parameters, const EmaOptions& options);

  void update();
  /// The count to `counts`, the averages under their parameters' names to `planes`.
  void state(checkpoint::Scope& counts, checkpoint::Scope& planes);
  /// By parameter.
  const std::vector<at::Tensor>& averages() const { return average_; }

 private:
  std::vector<models::nn::NamedParameter> parameters_;
  EmaOptions options_;
  std::vector<at::Tensor> average_;
  std::int64_t count_ = 0;
};

}  // namespace trestle::trainers
