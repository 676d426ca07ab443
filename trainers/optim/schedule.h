// Learning rate over a run: linear warm-up, then constant or half a cosine to zero (the factors of
// diffusers' constant_with_warmup and cosine schedulers).
// LOCAL, pure functions.
#pragma once
#include "base/ids.h"
#include "configs/describe.h"

#include <cstdint>
#include <string>

namespace trestle::trainers {

struct ScheduleOptions {  // part of [optim]
  std::string lr_scheduler = "constant";
  std::int64_t lr_warmup_steps = 0;
  void describe(configs::Fields& fields);
};

/// Factor on the learning rate that step `step` (from 0) is made with.
double schedule_factor(const ScheduleOptions& options, Step step, std::int64_t total_steps);

}  // namespace trestle::trainers
