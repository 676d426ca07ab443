// What can be wrong with a recipe and is seen without data or weights.
//
//   auto task = check_recipe(recipe, world.size());     // or throws, with every line that is wrong
//
// LOCAL. THREADS: one.
#pragma once
#include "configs/recipe.h"
#include "trainers/task.h"

#include <memory>

namespace trestle::trainers {

/// Unknown and ill-typed keys, values that do not fit together for this number of ranks. Throws
/// Error(usage). Returns the task it checked with, on the meta device, in branch 0.
std::unique_ptr<Task> check_recipe(const configs::Recipe& recipe, int world);

}  // namespace trestle::trainers
