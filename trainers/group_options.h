// The options of each parameter group: [optim.<name>] over [optim]. LOCAL, plain values.
#pragma once
#include "configs/recipe.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/schedule.h"

#include <string>

namespace trestle::trainers {

struct GroupOptions {
  AdamWOptions adamw;
  ScheduleOptions schedule;

  static GroupOptions of(const configs::Recipe& recipe, const std::string& group) {
    const std::string section = "optim." + group;
    return {.adamw = recipe.overlay<AdamWOptions>(section, "optim"),
            .schedule = recipe.overlay<ScheduleOptions>(section, "optim")};
  }
};

}  // namespace trestle::trainers
