// The options that every trainer has. Each struct stands for one section of a recipe.
// LOCAL, plain values.
#pragma once
#include "configs/describe.h"
#include "configs/recipe.h"
#include "configs/schema.h"

#include <cstdint>
#include <string>
#include <vector>

namespace trestle::trainers {

struct RunOptions {  // [run]
  std::string task;
  std::string name;
  std::int64_t seed = 0;
  double lease_timeout_s = 60;
  void describe(configs::Fields& fields);
};

struct TrainOptions {  // [train]
  std::int64_t steps = 1000;
  std::int64_t global_batch = 16;
  std::int64_t micro_batch = 8;
  double max_grad_norm = 1.0;
  std::string on_nonfinite = "skip";
  std::int64_t max_skips = 20;
  std::int64_t checkpoint_every = 0;
  void describe(configs::Fields& fields);
};

struct StopOptions {  // [train]: what ends a run early, saved
  std::vector<std::string> stop_signals = {"TERM", "USR2"};
  double stop_before_end_s = 120;
  void describe(configs::Fields& fields);
};

struct DistOptions {  // [dist]
  std::string shard = "optimizer";
  std::string wire_dtype = "auto";
  std::string two_level = "auto";
  std::int64_t bucket_bytes = 0;
  std::int64_t verify_every = 500;
  bool paranoid = false;
  std::int64_t threads = 0;
  void describe(configs::Fields& fields);
};

struct WatchOptions {  // [dist]: who notices that a rank is lost, stuck or slow
  bool watchdog = true;
  double startup_timeout_s = 600;
  double step_timeout_s = 300;
  double checkpoint_timeout_s = 1800;
  double silence_timeout_s = 30;
  std::int64_t flight_entries = 2000;
  std::int64_t straggler_every = 20;
  void describe(configs::Fields& fields);
};

struct CheckpointOptions {  // [checkpoint]
  std::int64_t every = 1000;
  bool async = true;
  std::int64_t staging_bytes = 0;
  double timeout_s = 1200;
  std::int64_t keep_last = 3;
  std::int64_t keep_every = 0;
  bool index = false;
  void describe(configs::Fields& fields);
};

struct SampleOptions {  // [sample]
  std::int64_t every = 0;
  std::int64_t pictures = 8;
  std::string weights = "ema";
  void describe(configs::Fields& fields);
};

struct LogOptions {  // [log]
  std::int64_t every = 10;
  std::string level = "info";
  bool tensorboard = true;
  void describe(configs::Fields& fields);
};

/// Whether what happens every so many steps (0: never) does after this many are done.
constexpr bool due(std::int64_t every, std::int64_t done) { return every > 0 && done % every == 0; }

/// For a task's describe(): [optim.<group>] says for this group what [optim] says for all.
void describe_group(configs::Schema& schema, const std::string& group);

/// Everything a recipe may say, given its run.task: the trainer's sections, then the task's.
configs::Schema schema_of(const configs::Recipe& recipe);

/// docs/recipe_reference.md: all options of this program, the trainer's and then each task's.
std::string reference_page();

}  // namespace trestle::trainers
