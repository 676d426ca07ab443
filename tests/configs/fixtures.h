// What the tests of configs/ share: an options struct of every type, a folder for recipes, and the
// text of an expected error.
#pragma once
#include "base/error.h"
#include "configs/describe.h"
#include "configs/schema.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

namespace trestle::configs {

struct TrainOptions {
  int64_t steps = 1000;
  bool shuffle = true;
  double dropout = 0.1;
  std::string precision = "float32";
  std::vector<int64_t> milestones = {10, 20};
  std::vector<std::string> prompts = {};
  std::optional<double> max_grad_norm = 1.0;
  std::optional<int64_t> seed = std::nullopt;
  std::optional<std::string> resume = std::nullopt;

  void describe(Fields& f) {
    f.field("steps", steps, {.help = "optimizer steps of the run", .unit = "steps", .min = 1});
    f.field("shuffle", shuffle, {.help = "permute samples"});
    f.field("dropout", dropout, {.help = "share of dropped units", .min = 0, .below = 1});
    f.field("precision", precision,
            {.help = "type of parameters", .choices = {"float32", "float64", "bfloat16"}});
    f.field("milestones", milestones, {.help = "steps of note", .unit = "steps", .min = 0});
    f.field("prompts", prompts, {.help = "texts | captions"});
    f.field("max_grad_norm", max_grad_norm, {.help = "clip at this norm", .above = 0});
    f.field("seed", seed, {.help = "draws start here", .min = 0, .max = 4294967295.0});
    f.field("resume", resume, {.help = "checkpoint to go on from"});
  }
};

struct OptimOptions {
  double learning_rate = 1e-4;
  int64_t lr_warmup_steps = 0;
  std::string lr_scheduler = "cosine";

  void describe(Fields& f) {
    f.field("learning_rate", learning_rate, {.help = "peak learning rate", .unit = "1", .min = 0});
    f.field("lr_warmup_steps", lr_warmup_steps, {.help = "linear warm-up", .min = 0});
    f.field("lr_scheduler", lr_scheduler,
            {.help = "shape after warm-up", .choices = {"cosine", "constant"}});
  }
};

/// One key that needs another of its section.
struct AverageOptions {
  bool enabled = true;
  double decay = 0.9;

  void describe(Fields& f) {
    f.field("enabled", enabled, {.help = "keep an average"});
    f.field("decay", decay, {.help = "of the average", .needs = {"enabled", true}});
  }
};

/// Keys that may change, one of them needs another section's key.
struct OutputOptions {
  std::string format = "bar";
  int64_t every = 10;

  void describe(Fields& f) {
    f.field("format", format,
            {.help = "of progress", .choices = {"bar", "lines"}, .may_change = true});
    f.field("every", every,
            {.help = "steps between lines",
             .min = 1,
             .needs = {"log.format", "lines"},
             .may_change = true});
  }
};

inline Schema train_and_optim() {
  Schema schema;
  schema.section<TrainOptions>("train");
  schema.section<OptimOptions>("optim");
  return schema;
}

/// The text of the Error that `action` throws with this code; a failed test if it throws none.
inline std::string error_of(const std::function<void()>& action, ExitCode code = ExitCode::usage) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

/// A folder of its own for each test, gone afterwards.
class RecipeFolder : public testing::Test {
 protected:
  RecipeFolder()
      : folder_(std::filesystem::temp_directory_path() /
                ("trestle_configs_" + std::to_string(getpid()) + "_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(folder_);
  }
  ~RecipeFolder() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  /// Writes the recipe and returns its path.
  std::string write(const std::string& name, const std::string& text) {
    const std::filesystem::path file = folder_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
    return file.string();
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

 private:
  std::filesystem::path folder_;
};

}  // namespace trestle::configs
