#include "checkpoint/save_step.h"

#include <algorithm>
#include <atomic>

namespace trestle::checkpoint {
namespace {

std::atomic<SaveStepHook> hook{nullptr};

}  // namespace

std::string_view save_step_name(SaveStep step) {
  return std::ranges::find(kSaveSteps, step, &decltype(kSaveSteps)::value_type::first)->second;
}

std::optional<SaveStep> save_step_of(std::string_view name) {
  for (const auto& [step, known] : kSaveSteps)
    if (known == name) return step;
  return std::nullopt;
}

SaveStepHook on_save_step(SaveStepHook next) { return hook.exchange(next); }

void at_step(SaveStep at, std::int64_t step) {
  if (const SaveStepHook call = hook.load()) call(at, step);
}

}  // namespace trestle::checkpoint
