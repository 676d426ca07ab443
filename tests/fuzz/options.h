// The options that the fuzzed recipes set: one of each type, with bounds, choices and needs.
#pragma once
#include "configs/describe.h"
#include "configs/schema.h"

#include <optional>
#include <string>
#include <vector>

namespace trestle::fuzz {

struct TrainOptions {
  bool shuffle = true;
  int64_t steps = 1000;
  double dropout = 0.1;
  std::string precision = "float32";
  std::string name = "a";
  std::vector<int64_t> milestones = {10, 20};
  std::vector<std::string> prompts = {};
  std::optional<double> max_grad_norm = 1.0;
  std::optional<int64_t> seed = std::nullopt;
  std::optional<std::string> resume = std::nullopt;

  void describe(configs::Fields& f) {
    f.field("shuffle", shuffle, {.help = "a flag"});
    f.field("steps", steps, {.help = "an integer", .unit = "steps", .min = 1});
    f.field("dropout", dropout, {.help = "a number", .min = 0, .below = 1});
    f.field("precision", precision, {.help = "a choice", .choices = {"float32", "bfloat16"}});
    f.field("name", name, {.help = "a text"});
    f.field("milestones", milestones, {.help = "integers", .min = 0});
    f.field("prompts", prompts, {.help = "texts"});
    f.field("max_grad_norm", max_grad_norm, {.help = "a number or none", .above = 0});
    f.field("seed", seed, {.help = "an integer or none", .min = 0, .max = 4294967295.0});
    f.field("resume", resume, {.help = "a text or none", .needs = {"shuffle", true}});
  }
};

struct EmaOptions {
  double decay = 0.999;

  void describe(configs::Fields& f) {
    f.field("decay", decay, {.help = "a number", .min = 0, .max = 1});
  }
};

inline const configs::Schema& schema() {
  static const configs::Schema schema = [] {
    configs::Schema made;
    made.section<TrainOptions>("train");
    made.section<EmaOptions>("ema.weights");
    return made;
  }();
  return schema;
}

}  // namespace trestle::fuzz
